package email

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/storage"
)

// Addresses for bounces outlast a restart, wherever things are kept.
func TestReturnsSecretStays(t *testing.T) {
	store, err := storage.Open(t.Context(), storage.Memory())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	folder := t.TempDir()
	for name, get := range map[string]func() ([]byte, error){
		"storage": func() ([]byte, error) { return returnsSecret(t.Context(), store, "") },
		"folder":  func() ([]byte, error) { return returnsSecret(t.Context(), nil, folder) },
	} {
		a, errA := get()
		b, errB := get()
		if errA != nil || errB != nil || len(a) != 32 || !bytes.Equal(a, b) {
			t.Errorf("in the %s: %x, %v, then %x, %v", name, a, errA, b, errB)
		}
	}
	if info, err := os.Stat(filepath.Join(folder, "returns.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if a, err := returnsSecret(t.Context(), nil, ""); err != nil || len(a) != 32 {
		t.Errorf("in memory: %x, %v", a, err)
	}
}

// A server that restarts with its folder takes the bounces of before.
func TestBounceAfterRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{servers: map[string]*Server{}}
		cfg := relay("a.example")
		cfg.DataPath = t.TempDir()
		a := inBubble(t, n, cfg, WithResolver(noDNS{}))
		back, err := a.latest().returns.verp.Encode("crbnvf8ffqtc0kdbnvsh", 0, "a.example")
		a.stop()
		if err != nil {
			t.Fatal(err)
		}
		a = inBubble(t, n, cfg, WithResolver(noDNS{}))
		defer a.stop()
		c := dialPipe(t, a, "192.0.2.2")
		c.say("MAIL FROM:<>", "250")
		c.say("RCPT TO:<"+back+">", "250")
	})
}

// However its letters are written, an address for bounces is one recipient, and so
// is whom it leads to.
func TestReturnAddressOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := inBubble(t, &network{servers: map[string]*Server{}}, relay("a.example"), WithResolver(noDNS{}), WithMailbox(newMailbox(nil).take))
		defer a.stop()
		verp, err := a.latest().returns.verp.Encode("crbnvf8ffqtc0kdbnvsh", 0, "a.example")
		if err != nil {
			t.Fatal(err)
		}
		srs, err := a.latest().returns.rewrite("a.example", "carl@c.example")
		if err != nil {
			t.Fatal(err)
		}
		c := dialPipe(t, a, "192.0.2.2")
		c.say("MAIL FROM:<>", "250")
		for _, back := range []string{verp, srs} {
			for _, spelling := range []string{back, back, strings.ToUpper(back), strings.ToUpper(back[:5]) + back[5:], strings.ToUpper(back[:len(back)/2]) + back[len(back)/2:]} {
				c.say("RCPT TO:<"+spelling+">", "250")
			}
		}
		if got := c.data(toB); !strings.HasPrefix(got, "250") {
			t.Fatal(got)
		}
		if e := a.seen(EventReceived); len(e) != 1 || !slices.Equal(e[0].Recipients, []string{verp, "carl@c.example"}) {
			t.Errorf("%+v", e)
		}
	})
}

// That a message is late is told once while it is here, and once by the server
// that has it then, however often that says so.
func TestDelayIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var taking atomic.Bool
		st := onStage(t, relay("a.example"), &script{answer: func(_ int, command string) string {
			if !taking.Load() && strings.HasPrefix(command, "RCPT") {
				return "450 4.2.1 later"
			}
			return ""
		}})
		id, err := st.SendEmail(t.Context(), Email{From: "ann@a.example", To: []string{"bob@b.example"}, Subject: "x", Text: "x"})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(12 * time.Hour)
		if got := len(st.seen(EventDelayed)); got != 1 {
			t.Fatalf("told %d times while it is in the queue", got)
		}
		taking.Store(true)
		time.Sleep(12 * time.Hour)
		if got := st.status(id).Status; got != StatusDelivered {
			t.Fatal(got)
		}
		back, err := st.latest().returns.verp.Encode(id, 0, "a.example")
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			st.n.inject(t, st.server, "192.0.2.2", "", back, strings.ReplaceAll(bounceOf("bob@b.example", "4.4.1", "451 4.4.1 no answer"), "Action: failed", "Action: delayed"))
			time.Sleep(time.Hour)
		}
		if e := st.seen(EventDelayed); len(e) != 2 || e[1].MessageID != id || !strings.Contains(e[1].Reason, "no answer") {
			t.Errorf("%+v", e)
		}
	})
}

// reads counts what is read of a message.
type reads struct {
	*strings.Reader
	n int
}

func (r *reads) ReadAt(p []byte, at int64) (int, error) {
	n, err := r.Reader.ReadAt(p, at)
	r.n += n
	return n, err
}

// A bounce is read once, to however many addresses it comes.
func TestBounceIsReadOnce(t *testing.T) {
	r := start(t, Config{}).current()
	env := &queued{}
	for i := range 3 {
		back, err := r.returns.verp.Encode("crbnvf8ffqtc0kdbnvsh", i, "a.example")
		if err != nil {
			t.Fatal(err)
		}
		env.Recipients = append(env.Recipients, recipient{Address: back})
	}
	body := &reads{Reader: strings.NewReader(bounceOf("bob@b.example", "5.1.1", "550 5.1.1 no such user"))}
	d := &delivery{env: env, body: io.NewSectionReader(body, 0, body.Size())}
	first := 0
	for i := range env.Recipients {
		if res := r.takeBack(t.Context(), d, i); !res.ok {
			t.Errorf("%+v", res)
		}
		if i == 0 {
			first = body.n
		}
	}
	if first == 0 || body.n != first {
		t.Errorf("%d bytes are read for the first recipient, %d for all", first, body.n)
	}
}

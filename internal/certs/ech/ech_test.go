package ech

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

const publicName = "public.test"

func openStore(t *testing.T, b storage.Backend) *storage.Store {
	t.Helper()
	s, err := storage.Open(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func openKeys(t *testing.T, s *storage.Store) *Keys {
	t.Helper()
	k, err := Open(t.Context(), s, publicName, nil)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// handshake is one of Go's client with a server that has keys.
func handshake(t *testing.T, k *Keys, configList []byte) (server tls.ConnectionState, name string, err error) {
	t.Helper()
	cert, key, pool := testenv.SelfSigned(t, publicName, "secret.test")
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := net.Pipe()
	defer ours.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		defer theirs.Close()
		c := tls.Server(theirs, &tls.Config{Certificates: []tls.Certificate{pair}, GetEncryptedClientHelloKeys: k.Get})
		c.Handshake()
		server = c.ConnectionState()
	})
	c := tls.Client(ours, &tls.Config{ServerName: "secret.test", RootCAs: pool, EncryptedClientHelloConfigList: configList})
	err = c.Handshake()
	ours.Close()
	wg.Wait()
	return server, server.ServerName, err
}

func TestClientsEncryptWithThePublishedKey(t *testing.T) {
	k := openKeys(t, openStore(t, storage.Memory()))
	state, name, err := handshake(t, k, k.ConfigList())
	if err != nil || !state.ECHAccepted || name != "secret.test" {
		t.Errorf("%v, accepted %v, name %q", err, state.ECHAccepted, name)
	}
	// With another's key the client is told ours, under the public name.
	other := openKeys(t, openStore(t, storage.Memory()))
	state, name, err = handshake(t, k, other.ConfigList())
	var rejected *tls.ECHRejectionError
	if !errors.As(err, &rejected) || !bytes.Equal(rejected.RetryConfigList, k.ConfigList()) || name != publicName {
		t.Errorf("with another's key: %v, name %q", err, name)
	}
	if state, _, err = handshake(t, k, rejected.RetryConfigList); err != nil || !state.ECHAccepted {
		t.Errorf("with what it was told: %v", err)
	}
}

// The bytes, as RFC 9849 section 4 has them.
func TestConfigList(t *testing.T) {
	list := openKeys(t, openStore(t, storage.Memory())).ConfigList()
	want := []byte{0, 66, 0xfe, 0x0d, 0, 62, list[6], 0, 0x20, 0, 32}
	want = append(want, list[11:43]...)
	want = append(want, 0, 8, 0, 1, 0, 1, 0, 1, 0, 3, 64, 11)
	want = append(append(want, publicName...), 0, 0)
	if !bytes.Equal(list, want) {
		t.Errorf("\ngot  %x\nwant %x", list, want)
	}
}

// A client uses what it got from DNS within the last day. Two Routers have one
// storage, at which they look in turns; each takes what either publishes.
func TestRotation(t *testing.T) {
	begin := time.Now()
	k := &Keys{name: publicName}
	var stored []byte
	var routers [2]*snapshot
	published := make(map[string]time.Time) // when last, by list
	first := make(map[string]time.Time)
	var inOrder []string
	for step := range 2 * int(3*24*time.Hour/interval) { // three days
		i := step % 2
		now := begin.Add(time.Duration(step/2)*interval + time.Duration(i)*interval/3)
		keys, changed, err := rotate(stored, now)
		if err != nil {
			t.Fatal(err)
		}
		if changed {
			stored = []byte(encode(t, keys))
		}
		if routers[i], err = k.snapshot(keys, now); err != nil {
			t.Fatal(err)
		}
		if len(keys) > 3 {
			t.Fatalf("%d keys", len(keys))
		}
		for _, r := range routers {
			if r == nil {
				continue
			}
			list := string(r.list)
			if published[list] = now; first[list].IsZero() {
				first[list] = now
				inOrder = append(inOrder, list)
			}
		}
		for list, at := range published {
			if now.Sub(at) > 23*time.Hour {
				continue
			}
			for i, r := range routers {
				if r != nil && !slices.ContainsFunc(r.tls, func(key tls.EncryptedClientHelloKey) bool { return string(encodeList(key.Config)) == list }) {
					t.Fatalf("Router %d does not take a key that was published %s ago", i, now.Sub(at))
				}
			}
		}
	}
	if len(inOrder) != 3 {
		t.Errorf("%d keys in three days", len(inOrder))
	}
	for i := range inOrder[1:] {
		if d := first[inOrder[i+1]].Sub(first[inOrder[i]]); d < life-interval || d > life+interval {
			t.Errorf("key %d was the newest for %s", i, d)
		}
	}
}

func TestRunPublishesWhatItRotates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := storage.Open(t.Context(), storage.Memory())
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		k := openKeys(t, s)
		before := k.ConfigList()
		ctx, stop := context.WithCancel(t.Context())
		var published [][]byte
		var wg sync.WaitGroup
		wg.Go(func() { k.Run(ctx, func(list []byte) { published = append(published, list) }) })
		time.Sleep(life + interval)
		stop()
		wg.Wait()
		if len(published) != 1 || !bytes.Equal(published[0], k.ConfigList()) || bytes.Equal(published[0], before) {
			t.Errorf("published %x", published)
		}
		if again := openKeys(t, s); !bytes.Equal(again.ConfigList(), k.ConfigList()) {
			t.Error("another Router publishes another key")
		}
	})
}

// Nobody ran for a month: what is published stays good until others may know
// the next one.
func TestRotationAfterALongTime(t *testing.T) {
	now := time.Now()
	old, err := newKey(now.Add(-30*24*time.Hour), nil)
	if err != nil {
		t.Fatal(err)
	}
	keys, changed, err := rotate([]byte(encode(t, []key{old})), now)
	if err != nil || !changed || len(keys) != 2 || !keys[1].From.Equal(now.Add(lead).UTC()) {
		t.Errorf("%v %v %v", keys, changed, err)
	}
}

func encode(t *testing.T, keys []key) string {
	t.Helper()
	text, err := json.Marshal(keys)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestKeysOutlastARestartAndTheStorageFailing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := storage.Open(t.Context(), storage.Memory())
		if err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		k, err := Open(t.Context(), s, publicName, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		if again := openKeys(t, s); !bytes.Equal(again.ConfigList(), k.ConfigList()) {
			t.Error("another key after a restart")
		}
		list := k.ConfigList()
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { k.Run(ctx, func([]byte) { t.Error("published something") }) })
		s.Close()
		time.Sleep(48 * time.Hour)
		if !bytes.Equal(k.ConfigList(), list) {
			t.Error("another key without a storage")
		}
		stop()
		wg.Wait()
		if !strings.Contains(log.String(), "cannot rotate the keys") || strings.Contains(log.String(), "private") {
			t.Errorf("log: %.500s", log.String())
		}
		if _, err := Open(t.Context(), s, publicName, nil); err == nil {
			t.Error("opened without a storage")
		}
	})
}

func TestBrokenKeysInTheStorage(t *testing.T) {
	s := openStore(t, storage.Memory())
	for _, value := range []string{"", "{", `[{"id":1,"from":"2126-01-01T00:00:00Z","private":"AAAA"}]`} {
		if err := s.Put(t.Context(), "certificates/ech/"+publicName+".json", []byte(value)); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), s, publicName, nil); err == nil || !strings.Contains(err.Error(), "delete it") || !strings.Contains(err.Error(), publicName) {
			t.Errorf("%q: %v", value, err)
		}
	}
}

func TestPublicNames(t *testing.T) {
	for name, ok := range map[string]bool{"a.test": true, "a-b.c1.test": true, "1.a.test": true, "xn--bcher-kva.test": true,
		"": false, "localhost": false, "A.test": false, "a..test": false, ".a.test": false, "a.test.": false, "-a.test": false, "a-.test": false, "*.a.test": false,
		"1.2.3.4": false, "a.1": false, "a_b.test": false, "a b.test": false, "::1": false, strings.Repeat("a", 64) + ".test": false, strings.Repeat("a.", 125) + "test": false} {
		if IsPublicName(name) != ok {
			t.Errorf("%q: %v", name, !ok)
		}
	}
	if _, err := Open(t.Context(), openStore(t, storage.Memory()), "Not A Name", nil); err == nil {
		t.Error("opened")
	}
}

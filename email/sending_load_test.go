package email

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// Postfix's load generator sends through us to its sink: nothing is lost and
// nothing comes twice. EMAIL_LOAD_SECONDS sets for how long; by default it is one
// short run.
func TestSourceToSink(t *testing.T) {
	source := testenv.Need(t, "smtp-source", "apt-get install postfix")
	sink := testenv.Need(t, "smtp-sink", "apt-get install postfix")
	seconds, _ := strconv.Atoi(os.Getenv("EMAIL_LOAD_SECONDS"))
	dumps := testenv.Folder(t)
	os.Chmod(dumps, 0o777)
	addr := fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(t))
	args := []string{"-d", filepath.Join(dumps, "mail."), addr, "1000"}
	if os.Geteuid() == 0 {
		args = append([]string{"-u", "nobody"}, args...)
	}
	testenv.Start(t, testenv.Opts{Ready: addr}, sink, args...)
	_, port, _ := net.SplitHostPort(addr)
	n, _ := strconv.Atoi(port)
	cfg := sender()
	cfg.DataPath = t.TempDir()
	s := start(t, cfg, quiet(), toPorts(map[string]int{"192.0.2.2": n}), WithResolver(hosts{"example.net": "192.0.2.2"}))

	const each = 500
	begun, sent := time.Now(), 0
	for run := 0; run == 0 || time.Since(begun) < time.Duration(seconds)*time.Second; run++ {
		out, err := testenv.Command(t, source, "-s", "10", "-m", strconv.Itoa(each), "-l", "4096", "-N",
			"-f", "user@a.example", "-t", fmt.Sprintf("run%d@example.net", run), s.Addrs()[0].String()).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		sent += each
	}
	accepting := time.Since(begun)
	testenv.WaitFor(t, 2*time.Minute, func() error {
		if st := s.Stats(); st.Spool.Messages > 0 {
			return fmt.Errorf("%d messages are still in the spool", st.Spool.Messages)
		}
		return nil
	})
	all := time.Since(begun)

	recipient := regexp.MustCompile(`(?m)^X-Rcpt-Args: <([^>]*)>`)
	got := make(map[string]int)
	testenv.WaitFor(t, time.Minute, func() error { // it may still be writing
		clear(got)
		files, err := filepath.Glob(filepath.Join(dumps, "mail.*"))
		if err != nil {
			return err
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				return err
			}
			for _, m := range recipient.FindAllSubmatch(b, -1) {
				got[string(m[1])]++
			}
		}
		if len(got) < sent {
			return fmt.Errorf("%d of %d arrived", len(got), sent)
		}
		return nil
	})
	for to, n := range got {
		if n != 1 {
			t.Errorf("%s got it %d times", to, n)
		}
	}
	if st := s.Stats(); st.Messages.Accepted != uint64(sent) || st.Deliveries.Forwarded != uint64(sent) || len(got) != sent {
		t.Errorf("%d sent, %d accepted, %d forwarded, %d arrived", sent, st.Messages.Accepted, st.Deliveries.Forwarded, len(got))
	}
	t.Logf("%d messages: accepted in %.1f s, delivered in %.1f s", sent, accepting.Seconds(), all.Seconds())
}

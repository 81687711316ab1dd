package bounceaddr

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// A postsrsd with our secret undoes what we did, and we undo what it did.
func TestPostsrsd(t *testing.T) {
	tool := testenv.Need(t, "postsrsd", "apt-get install postsrsd")
	folder := testenv.Folder(t)
	secrets := filepath.Join(folder, "secrets")
	if err := os.WriteFile(secrets, []byte(string(secret("a"))+"\n"+string(secret("b"))+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ask := func(port int, address string) string {
		conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
		fmt.Fprintf(conn, "get %s\n", address)
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(line)
	}
	server := func(domain string) (forward, reverse int) {
		forward, reverse = testenv.FreePort(t), testenv.FreePort(t)
		testenv.Start(t, testenv.Opts{Dir: folder, Ready: fmt.Sprintf("127.0.0.1:%d", reverse)}, tool,
			"-4", "-s", secrets, "-d", domain, "-f", fmt.Sprint(forward), "-r", fmt.Sprint(reverse))
		return forward, reverse
	}
	// The real clock, as it is postsrsd's.
	ours := newSRS(t, "first.example", Config{Secrets: [][]byte{secret("a"), secret("b")}, HashLength: 4})
	rotated := newSRS(t, "first.example", Config{Secrets: [][]byte{secret("b")}, HashLength: 4})
	forward, reverse := server("first.example")

	for _, sender := range []string{"bob@example.com", "Bob.Smith=x+y@Example.COM", "SRS0=AAAA=AA=example.com=bob@other.example", "SRS0+AAAA=AA=example.com=bob@other.example", "SRS1=AAAA=other.example==AAAA=AA=example.com=bob@third.example"} {
		want := sender // what comes back: with SRS1 the address of the first forwarder
		switch {
		case strings.HasPrefix(sender, "SRS1="):
			want = "SRS0=AAAA=AA=example.com=bob@other.example"
		case !strings.HasPrefix(sender, "SRS0"):
			want = strings.Replace(sender, "Example.COM", "example.com", 1)
		}
		mine, err := ours.Forward(sender)
		if err != nil {
			t.Errorf("%s: %v", sender, err)
			continue
		}
		theirs, ok := strings.CutPrefix(ask(forward, sender), "200 ")
		if !ok || !strings.EqualFold(theirs, mine) {
			t.Errorf("%s: postsrsd makes %s, we %s", sender, theirs, mine)
		}
		if got := ask(reverse, mine); !strings.EqualFold(got, "200 "+want) {
			t.Errorf("postsrsd undoes %s as %s", mine, got)
		}
		if got, err := ours.Reverse(theirs); err != nil || !strings.EqualFold(got, want) {
			t.Errorf("we undo %s as %s, %v", theirs, got, err)
		}
		// Signed by the second of postsrsd's secrets.
		mine, err = rotated.Forward(sender)
		if err != nil {
			t.Fatal(err)
		}
		if got := ask(reverse, mine); !strings.EqualFold(got, "200 "+want) {
			t.Errorf("postsrsd undoes %s, of the second secret, as %s", mine, got)
		}
	}
	forged := "SRS0=zzzz=AA=example.com=bob@first.example"
	if got := ask(reverse, forged); strings.HasPrefix(got, "200") {
		t.Errorf("postsrsd takes %s: %s", forged, got)
	}
}

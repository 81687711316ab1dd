package sasl

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

// lineServer speaks as much SMTP as clients need to sign in, with these
// mechanisms on offer, and tells who did.
func lineServer(t *testing.T, s *Server, mechanisms string) (addr string, signedIn <-chan string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	users := make(chan string, 10)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			serve(t, conn, s, mechanisms, users)
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
	})
	return ln.Addr().String(), users
}

func serve(t *testing.T, conn net.Conn, s *Server, mechanisms string, users chan<- string) {
	conn.SetDeadline(time.Now().Add(time.Minute))
	lines := bufio.NewScanner(conn)
	say := func(line string) { fmt.Fprintf(conn, "%s\r\n", line) }
	say("220 server.test ESMTP")
	for lines.Scan() {
		verb, rest, _ := strings.Cut(lines.Text(), " ")
		switch strings.ToUpper(verb) {
		case "EHLO":
			say("250-server.test")
			say("250 AUTH " + mechanisms)
		case "AUTH":
			mechanism, initial, hasInitial := strings.Cut(rest, " ")
			x, err := s.Start(mechanism, nil)
			if err != nil {
				say("504 " + err.Error())
				continue
			}
			var response []byte
			if hasInitial && initial != "=" {
				response, _ = base64.StdEncoding.DecodeString(initial)
			}
			for {
				challenge, done, err := x.Next(t.Context(), response)
				if done {
					if err == nil {
						users <- x.Username()
						say("235 2.7.0 welcome")
					} else if errors.Is(err, ErrRejected) {
						say("535 5.7.8 " + err.Error())
					} else {
						say("501 5.5.2 " + err.Error())
					}
					break
				}
				say("334 " + base64.StdEncoding.EncodeToString(challenge))
				if !lines.Scan() {
					return
				}
				response, err = base64.StdEncoding.DecodeString(lines.Text())
				if err != nil {
					say("501 no base64")
					break
				}
			}
		case "QUIT":
			say("221 bye")
			return
		default:
			say("250 ok")
		}
	}
}

// GNU SASL's client, by each mechanism, for users of each kind.
func TestGSASL(t *testing.T) {
	gsasl := testenv.Need(t, "gsasl", "apt-get install gsasl")
	s := newServer(t)
	for _, mechanism := range s.Mechanisms() {
		addr, signedIn := lineServer(t, s, mechanism)
		for user, password := range map[string]string{"plain": pass, "bcrypt": pass, "argon2": pass, "unicode\u00a0user": "p\u00aass", "com,ma=": pass} {
			for _, wrong := range []bool{false, true} {
				given := password
				if wrong {
					given += "x"
				}
				out, err := exec.Command(gsasl, "--smtp", "--connect="+addr, "--no-starttls", "--no-cb", "--mechanism="+mechanism,
					"--authentication-id="+user, "--authorization-id=", "--password="+given, "--verbose").CombinedOutput()
				possible := mechanism != ScramSHA256 || user != "bcrypt" && user != "argon2"
				got := ""
				select {
				case got = <-signedIn:
				default:
				}
				if want := possible && !wrong; (err == nil) != want || (got != "") != want {
					t.Errorf("%s as %s, wrong %v: signed in %q, %v\n%s", mechanism, user, wrong, got, err, out)
				}
			}
		}
	}
}

func TestSMTPLib(t *testing.T) {
	python := testenv.Need(t, "python3", "apt-get install python3")
	for _, mechanism := range []string{Plain, Login} {
		addr, signedIn := lineServer(t, newServer(t), mechanism)
		out, err := exec.Command(python, "-c", `
import smtplib, sys
host, port = sys.argv[1].rsplit(":", 1)
for user, password, good in [("plain", "pencil", True), ("bcrypt", "pencil", True), ("argon2", "pencil", True), ("plain", "pencils", False), ("nobody", "pencil", False)]:
    with smtplib.SMTP(host, int(port)) as c:
        try:
            c.login(user, password)
            assert good, user
        except smtplib.SMTPAuthenticationError as e:
            assert not good, (user, e)
            assert e.smtp_code == 535, e
`, addr).CombinedOutput()
		if err != nil || len(signedIn) != 3 {
			t.Errorf("%s: %d signed in, %v\n%s", mechanism, len(signedIn), err, out)
		}
	}
}

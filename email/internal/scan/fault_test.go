package scan

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/message"
	"github.com/dcrouter/dcrouter/internal/testenv"
)

// Whatever a backend does, a scan ends with an error in time and leaves nothing.
func TestHostilePeers(t *testing.T) {
	testenv.Goroutines(t)
	endless := func(conn net.Conn, head, text string) {
		io.WriteString(conn, head)
		for {
			if _, err := io.WriteString(conn, strings.Repeat(text, 1000)); err != nil {
				return
			}
		}
	}
	reset := func(conn net.Conn) {
		conn.Read(make([]byte, 10))
		conn.(*net.TCPConn).SetLinger(0)
	}
	m := newMessage(t, "", strings.Repeat("a line of text\n", 100_000))
	tests := []struct {
		name  string
		serve func(net.Conn)
		slow  bool // ends with the context only
	}{
		{"silence", nil, true},
		{"silence after reading", func(conn net.Conn) { io.Copy(io.Discard, conn) }, true}, // and until the test ends
		{"hangs up", func(net.Conn) {}, false},
		{"resets", reset, false},
		{"garbage", func(conn net.Conn) { io.WriteString(conn, "\x00\x00\x00\x05garbage\r\n\r\n\x00\xff"); drain(conn) }, false},
		{"endless", func(conn net.Conn) { endless(conn, "", "x") }, false},
		{"endless HTTP header", func(conn net.Conn) { endless(conn, "HTTP/1.1 200 OK\r\n", "X: y\r\n") }, false},
		{"endless HTTP", func(conn net.Conn) { endless(conn, "HTTP/1.1 200 OK\r\n\r\n", "{\"a\":[") }, false},
		{"endless spamd", func(conn net.Conn) { endless(conn, "SPAMD/1.1 0 EX_OK\r\nSpam: False ; 1 / 5\r\n\r\n", "A,") }, false},
		{"breaks off", func(conn net.Conn) {
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{\"score\":1,")
			drain(conn)
		}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := peer(t, func(conn net.Conn) {
				if test.serve != nil {
					test.serve(conn)
				}
				if test.slow {
					<-t.Context().Done()
				}
			})
			for name, s := range backends(b) {
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				if test.slow {
					cancel()
					ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
				}
				v, err := s.Scan(ctx, m)
				cancel()
				var backend *BackendError
				if !errors.As(err, &backend) || backend.Backend != name || v.Bad {
					t.Errorf("%s: %+v, %v", name, v, err)
				}
				if name == "rspamd" && strings.HasPrefix(test.name, "endless HTTP") && !errors.Is(err, errAnswer) {
					t.Errorf("%v", err)
				}
				if test.slow != errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%s: %v", name, err)
				}
				if err != nil && len(err.Error()) > 1000 {
					t.Errorf("%s: %d bytes of error", name, len(err.Error()))
				}
			}
		})
	}
}

func drain(conn net.Conn) {
	conn.(*net.TCPConn).CloseWrite()
	io.Copy(io.Discard, conn)
}

func TestCancelled(t *testing.T) {
	testenv.Goroutines(t)
	for name, s := range backends(peer(t, func(net.Conn) { <-t.Context().Done() })) {
		ctx, cancel := context.WithCancel(t.Context())
		stop := time.AfterFunc(20*time.Millisecond, cancel)
		if _, err := s.Scan(ctx, newMessage(t, "", "x\n")); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		stop.Stop()
		cancel()
	}
}

// A message of 50 MB costs buffers only.
func TestMemory(t *testing.T) {
	size := int64(50 << 20)
	if testenv.Race {
		size = 5 << 20
	}
	m := largeMessage(t, size)
	b := peer(t, func(conn net.Conn) {
		r := bufio.NewReader(conn)
		switch start, _ := r.Peek(4); string(start) {
		case "POST":
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			io.Copy(io.Discard, req.Body)
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{\"score\":1}")
		case "SYMB":
			io.Copy(io.Discard, r)
			io.WriteString(conn, "SPAMD/1.1 0 EX_OK\r\nSpam: False ; 1 / 5\r\n\r\n")
		case "zINS":
			buf := make([]byte, 64<<10)
			var tail []byte
			for !bytes.Equal(tail, make([]byte, 4)) {
				n, err := r.Read(buf)
				if err != nil {
					return
				}
				tail = append(tail, buf[max(0, n-4):n]...)
				tail = tail[max(0, len(tail)-4):]
			}
			io.WriteString(conn, "stream: OK\x00")
		default:
			serveMilter(r, conn, nil)
		}
	})
	all := backends(b)
	all["builtin spam"] = NewSpam(0)
	all["builtin virus"] = NewVirus(ArchiveLimits{})
	all["builtin attachments"] = NewAttachments(AttachmentOptions{MaxSize: 1, Blocked: []string{".exe"}})
	for name, s := range all {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		scan(t, s, m)
		runtime.ReadMemStats(&after)
		t.Logf("%s: %d KiB allocated", name, (after.TotalAlloc-before.TotalAlloc)>>10)
		// The peer's buffers, and what a race build adds, are counted too.
		if got := after.TotalAlloc - before.TotalAlloc; got > 16<<20 && !testenv.Race {
			t.Errorf("%s: %d bytes allocated", name, got)
		}
	}
}

func TestSpamdAnswers(t *testing.T) {
	tests := []struct {
		answer    string
		threshold float64
		want      string
	}{
		{"SPAMD/1.1 0 EX_OK\r\nSpam: False ; -1.5 / 5.0\r\n\r\nA,B", 0, "false -1.5/5 [A B]"},
		{"SPAMD/1.1 0 EX_OK\r\nContent-length: 3\r\nSpam: True ; 7.5 / 5.0\r\n\r\nA,B", 0, "true 7.5/5 [A B]"},
		{"SPAMD/1.1 0 EX_OK\r\nSpam: True ; 7.5 / 5.0\r\n\r\n", 10, "false 7.5/10 []"},
		{"SPAMD/1.1 0 EX_OK\r\nSpam: False ; 3 / 5.0\r\n\r\n", 2, "true 3/2 []"},
		{"SPAMD/1.1 76 Bad header line\r\n\r\n", 0, "unexpected answer"},
		{"SPAMD/1.1 0 EX_OK\r\nSpam: maybe\r\n\r\n", 0, "unexpected result"},
		{"SPAMD/1.1 0 EX_OK\r\nSpam: False ; NaN / 5\r\n\r\n", 0, "unexpected result"},
		{"SPAMD/1.1 0 EX_OK\r\n\r\n", 0, "unexpected result"},
		{"SPAMD/1.1 0 EX_OK\r\nContent-length: 100\r\nSpam: True ; 7.5 / 5.0\r\n\r\nA,B", 0, "unexpected EOF"},
	}
	for _, test := range tests {
		v := Verdict{}
		err := v.setSpamd([]byte(test.answer), test.threshold)
		got := fmt.Sprintf("%v %v/%v %v", v.Bad, v.Score, v.Threshold, v.Details)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, test.want) {
			t.Errorf("%q: %s", test.answer, got)
		}
	}
}

// What spamd is told, and how much of a large message.
func TestSpamdRequest(t *testing.T) {
	got := make(chan []byte, 1)
	s := NewSpamd(peer(t, func(conn net.Conn) {
		b, _ := io.ReadAll(conn)
		got <- b
		io.WriteString(conn, "SPAMD/1.1 0 EX_OK\r\nSpam: False ; 1 / 5\r\n\r\n")
	}), 0)
	m := largeMessage(t, 2<<20)
	m.Helo = "evil\r\nX: y ;(["
	m.User = "ann"
	scan(t, s, m)
	head, body, _ := bytes.Cut(<-got, []byte("\r\n\r\n"))
	want := "Received: from evil_X:_y___[ (client.example.com [192.0.2.7])\r\n\tby mail.example.org with ESMTPA id abc123;\r\n\tMon, 02 Mar 2026 10:01:00 +0000\r\nFrom: Ann"
	if !bytes.HasPrefix(body, []byte(want)) {
		t.Errorf("got %.400q", body)
	}
	if want := fmt.Sprintf("Content-length: %d", len(body)); !bytes.Contains(head, []byte(want)) || len(body) > spamdMaxSize+1000 || len(body) < spamdMaxSize {
		t.Errorf("%s, and not %s", head, want)
	}
}

func TestClamdAnswers(t *testing.T) {
	for answer, want := range map[string]string{
		"stream: OK":                          "false ",
		"stream: Win.Test-1 FOUND":            "true Win.Test-1",
		"stream: a b FOUND":                   "true a b",
		"INSTREAM size limit exceeded. ERROR": "larger than the backend takes",
		"stream: Can't allocate memory ERROR": "unexpected answer",
		"UNKNOWN COMMAND":                     "unexpected answer",
		"stream:  FOUND":                      "unexpected answer",
		"":                                    "unexpected answer",
	} {
		v := Verdict{}
		err := v.setClamd(answer)
		got := fmt.Sprintf("%v %s", v.Bad, v.Name)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) {
			t.Errorf("%q: %s", answer, got)
		}
	}
}

func TestRspamdAnswers(t *testing.T) {
	v := Verdict{}
	err := v.setRspamd([]byte(`{"is_skipped":false,"score":7.25,"required_score":15,"action":"rewrite subject","subject":"[SPAM]\r\nhello",
		"symbols":{"A":{"score":1},"B":{"score":6.25,"options":["x"]},"C":{"score":-1}},"messages":{"smtp_message":"go\r\naway"},
		"milter":{"add_headers":{"X-Spam":"yes","X-B":{"value":"one\r\n two\nthree","order":1},"X-C":[{"value":"1"},"2"],"Bad Name":"x","X-E":{"value":7}},
			"remove_headers":{"X-Spam":0,"X-Two":[1,-1],"Bad Name":1,"X-Odd":"x"}}}`), 0)
	want := Verdict{Bad: true, Score: 7.25, Threshold: 15, Name: "B", Details: []string{"B(6.25)", "A(1.00)", "C(-1.00)"}, Action: RewriteSubject,
		Reply: "go away", Changes: []Change{{Field{"Subject", "[SPAM] hello"}, 1}, {Field{Name: "X-Spam"}, 0}, {Field{Name: "X-Two"}, 1}, {Field{Name: "X-Two"}, -1}}, Headers: []Field{{"X-B", "one\r\n\ttwo\r\n\tthree"}, {"X-C", "1"}, {"X-C", "2"}, {"X-E", ""}, {"X-Spam", "yes"}}}
	if err != nil || !reflect.DeepEqual(v, want) {
		t.Errorf("%v\ngot  %+v\nwant %+v", err, v, want)
	}
	v = Verdict{}
	v.setRspamd([]byte(`{"score":3,"action":"rewrite subject","subject":"Spam? =?utf-8?q?J=C3=B6rg?= `+strings.Repeat("ö", 30)+`"}`), 0)
	if len(v.Changes) != 1 {
		t.Fatalf("%+v", v)
	}
	f := message.Field{Raw: []byte("Subject: " + v.Changes[0].Value)}
	if got := message.DecodeHeader(f.Value()); got != "Spam? Jörg "+strings.Repeat("ö", 30) || strings.ContainsAny(f.Value(), "\"ö") {
		t.Errorf("%q, of %s", got, f.Raw)
	}
	for l := range strings.Lines(string(f.Raw)) {
		if len(l) > 90 {
			t.Errorf("%q is a long line", l)
		}
	}
	v = Verdict{}
	v.setRspamd([]byte(`{"score":3,"action":"rewrite subject","subject":"Spam"}`), 5)
	if v.Bad || v.Changes != nil {
		t.Errorf("not spam by our threshold: %+v", v)
	}
	for answer, want := range map[string]string{
		`{"score":3,"action":"greylist"}`:    "greylist false 0",
		`{"score":3,"action":"soft reject"}`: "soft reject false 0",
		`{"score":3,"action":"discard"}`:     "discard true 0",
		`{"score":3,"action":"quarantine"}`:  "quarantine true 0",
		`{"score":3,"action":"add header"}`:  "add header true 0",
		`{"score":3,"action":"new"}`:         "no action false 1",
		`{"score":3,"required_score":1e999}`: "cannot read",
		`{"error":"x"}`:                      "no score",
		`[]`:                                 "cannot read",
	} {
		v := Verdict{}
		got := ""
		if err := v.setRspamd([]byte(answer), 0); err != nil {
			got = err.Error()
		} else {
			got = fmt.Sprintf("%v %v %d", v.Action, v.Bad, len(v.Details))
		}
		if !strings.Contains(got, want) {
			t.Errorf("%s: %s", answer, got)
		}
	}
	v = Verdict{}
	if v.setRspamd([]byte(`{"score":3,"action":"no action"}`), 2); !v.Bad || v.Threshold != 2 {
		t.Errorf("%+v", v)
	}
}

// What rspamd is told, and what becomes of a status that is no success.
func TestRspamdRequest(t *testing.T) {
	got := make(chan *http.Request, 1)
	b := peer(t, func(conn net.Conn) {
		req, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		body, _ := io.ReadAll(req.Body)
		req.Header.Set("Length", fmt.Sprint(len(body)))
		got <- req
		io.WriteString(conn, "HTTP/1.1 403 Forbidden\r\nContent-Length: 14\r\n\r\n{\"error\":\"no\"}")
	})
	s := NewRspamd(b, RspamdOptions{Password: "secret"})
	m := newMessage(t, "", "x\n")
	m.Helo, m.User, m.Rcpts = "he\r\nX: y", "ann", []string{"b@example.org", "jörg@example.org"}
	_, err := s.Scan(t.Context(), m)
	if err == nil || !strings.Contains(err.Error(), "answers 403") || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
	h := (<-got).Header
	for name, want := range map[string]string{
		"IP": "192.0.2.7", "Helo": "heX: y", "Hostname": "client.example.com", "From": "<ann@example.com>", "User": "ann", "Queue-Id": "abc123",
		"Mta-Name": "mail.example.org", "Password": "secret", "Deliver-To": "b@example.org", "Length": fmt.Sprint(m.Data.Size()),
	} {
		if h.Get(name) != want {
			t.Errorf("%s: %q", name, h.Get(name))
		}
	}
	if !slices.Equal(h.Values("Rcpt"), []string{"<b@example.org>", "<jörg@example.org>"}) {
		t.Error(h.Values("Rcpt"))
	}
}

// serveMilter is a milter: it answers by the commands that it gets, and otherwise
// continues.
func serveMilter(r io.Reader, w io.Writer, answers map[byte][]string) (seen []string) {
	var buf []byte
	used := map[byte]int{}
	send := func(packet string) {
		w.Write(binary.BigEndian.AppendUint32(nil, uint32(len(packet))))
		io.WriteString(w, packet)
	}
	for {
		var size uint32
		if binary.Read(r, binary.BigEndian, &size) != nil || size == 0 {
			return seen
		}
		buf = slices.Grow(buf[:0], int(size))
		packet := buf[:size]
		if _, err := io.ReadFull(r, packet); err != nil {
			return seen
		}
		command := packet[0]
		if len(packet) < 1000 {
			seen = append(seen, string(packet))
		}
		if list := answers[command]; used[command] < len(list) {
			for _, one := range strings.Split(list[used[command]], "|") {
				send(one)
			}
			used[command]++
			continue
		}
		switch command {
		case milterNegotiate:
			send("O\x00\x00\x00\x06\x00\x00\x00\x31\x00\x00\x00\x00")
		case milterMacros:
		case milterQuit:
			return seen
		default:
			send("c")
		}
	}
}

func TestMilterAnswers(t *testing.T) {
	tests := []struct {
		name    string
		answers map[byte][]string
		want    Verdict
		err     string
	}{
		{"continue", nil, Verdict{}, ""},
		{"progress", map[byte][]string{'C': {"p|p|c"}, 'E': {"p|c"}}, Verdict{}, ""},
		{"accepted early", map[byte][]string{'H': {"a"}, 'E': {"r"}}, Verdict{}, ""},
		{"connection refused", map[byte][]string{'C': {"r"}}, Verdict{Bad: true, Action: Reject}, ""},
		{"reply", map[byte][]string{'E': {"y550 5.7.1 100%% no\x00"}}, Verdict{Bad: true, Action: Reject, Code: 550, Enhanced: [3]int{5, 7, 1}, Reply: "100% no"}, ""},
		{"reply of lines", map[byte][]string{'E': {"y550-5.7.1 no\r\n550 5.7.1 way\x00"}}, Verdict{Bad: true, Action: Reject, Code: 550, Enhanced: [3]int{5, 7, 1}, Reply: "no way"}, ""},
		{"reply for now", map[byte][]string{'M': {"y451 4.7.1 later\x00"}}, Verdict{Action: SoftReject, Code: 451, Enhanced: [3]int{4, 7, 1}, Reply: "later"}, ""},
		{"reply with a code of another class", map[byte][]string{'E': {"y550 4.7.1 no\x00"}}, Verdict{Bad: true, Action: Reject, Code: 550, Reply: "4.7.1 no"}, ""},
		{"reply that is none", map[byte][]string{'E': {"y250 ok\x00"}}, Verdict{}, "unexpected reply"},
		{"tempfail", map[byte][]string{'T': {"t"}}, Verdict{Action: SoftReject}, ""},
		{"shutdown", map[byte][]string{'L': {"4"}}, Verdict{Action: SoftReject}, ""},
		{"discard", map[byte][]string{'B': {"d"}}, Verdict{Bad: true, Action: Discard}, ""},
		{"skip", map[byte][]string{'B': {"s"}, 'E': {"a"}}, Verdict{}, ""},
		{"one recipient", map[byte][]string{'R': {"c", "y550 5.1.1 no\x00"}, 'E': {"a"}},
			Verdict{Bad: true, Action: Reject, Code: 550, Enhanced: [3]int{5, 1, 1}, Reply: "<c@example.org>: no"}, ""},
		{"one recipient without a reply", map[byte][]string{'R': {"r"}}, Verdict{Bad: true, Action: Reject, Reply: "<b@example.org>: The recipient is refused"}, ""},
		{"one recipient later", map[byte][]string{'R': {"c", "t"}}, Verdict{Action: SoftReject}, ""},
		{"changes", map[byte][]string{'E': {"hX-A\x00one\n two\x00|i\x00\x00\x00\x01X-B\x00b\x00|m\x00\x00\x00\x02Subject\x00new\x00|m\x00\x00\x00\x01X-Old\x00\x00|qodd\x00|a"}},
			Verdict{Bad: true, Action: Quarantine, Details: []string{"odd"}, Headers: []Field{{"X-A", "one\r\n\ttwo"}, {"X-B", "b"}},
				Changes: []Change{{Field{"Subject", "new"}, 2}, {Field{"X-Old", ""}, 1}}}, ""},
		{"injection", map[byte][]string{'E': {"hX-A\x00one\r\n\r\nX-Evil: 1\x00|c"}}, Verdict{Headers: []Field{{"X-A", "one\r\n\tX-Evil: 1"}}}, ""},
		{"bad header name", map[byte][]string{'E': {"hX: y\x00one\x00|c"}}, Verdict{}, "header named"},
		{"replace body", map[byte][]string{'E': {"bx|c"}}, Verdict{}, ErrUnsupported.Error()},
		{"add recipient", map[byte][]string{'E': {"+<x@example.org>\x00|c"}}, Verdict{}, ErrUnsupported.Error()},
		{"too many changes", map[byte][]string{'E': {strings.Repeat("hX\x00y\x00|", 1000) + "c"}}, Verdict{}, errAnswer.Error()},
		{"too many reasons", map[byte][]string{'E': {strings.Repeat("qx\x00|", 1000) + "c"}}, Verdict{}, errAnswer.Error()},
		{"too long", map[byte][]string{'E': {"h" + strings.Repeat("x", 70000)}}, Verdict{}, errAnswer.Error()},
		{"no index", map[byte][]string{'E': {"m\x00"}}, Verdict{}, "without an index"},
		{"unknown", map[byte][]string{'C': {"?"}}, Verdict{}, "unexpected answer '?'"},
		{"empty", map[byte][]string{'C': {""}}, Verdict{}, "empty packet"},
		{"version 1", map[byte][]string{'O': {"O\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00"}}, Verdict{}, "version 1"},
		{"unknown options", map[byte][]string{'O': {"O\x00\x00\x00\x06\x00\x00\x00\x00\x00\x80\x00\x00"}}, Verdict{}, "unknown options"},
		{"no negotiation", map[byte][]string{'O': {"c"}}, Verdict{}, "negotiation"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := NewMilter(peer(t, func(conn net.Conn) { serveMilter(conn, conn, test.answers) }), Virus)
			m := newMessage(t, "", "hello\n")
			m.Rcpts = []string{"b@example.org", "c@example.org"}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			v, err := f.Scan(ctx, m)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("%v", err)
				}
				return
			}
			test.want.Kind = Virus
			if err != nil || !reflect.DeepEqual(v, test.want) {
				t.Errorf("%v\ngot  %+v\nwant %+v", err, v, test.want)
			}
		})
	}
}

// What a milter is told, also when it wants to hear little.
func TestMilterRequest(t *testing.T) {
	talk := func(options string) string {
		got := make(chan []string, 1)
		f := NewMilter(peer(t, func(conn net.Conn) {
			got <- serveMilter(conn, conn, map[byte][]string{'O': {"O\x00\x00\x00\x06\x00\x00\x00\x00" + options}})
		}), Spam)
		m := newMessage(t, "Subject: one\n two\nTo:b\n", "hello\n")
		m.User = "ann"
		scan(t, f, m)
		return strings.ReplaceAll(strings.Join((<-got)[1:], "\n"), "\x00", "|")
	}
	want := `DCj|mail.example.org|{daemon_name}|mail.example.org|v|dcrouter|{client_addr}|192.0.2.7|{client_name}|client.example.com|
Cclient.example.com|4` + "\x04\xd2" + `192.0.2.7|
Hclient.example.com|
DMi|abc123|{auth_authen}|ann|{mail_addr}|ann@example.com|
M<ann@example.com>|
DR{rcpt_addr}|bob@example.org|
R<bob@example.org>|
DTi|abc123|
T
LSubject|one
 two|
LTo|b|
N
Bhello` + "\r\n" + `
DEi|abc123|
E
Q`
	if got := talk("\x00\x00\x00\x00"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	spaced := strings.Replace(want, "LSubject|one", "LSubject| one", 1)
	if got := talk("\x00\x10\x00\x00"); got != spaced {
		t.Errorf("got\n%s\nwant\n%s", got, spaced)
	}
	if got := talk("\x00\x00\x03\x7f"); strings.Contains(got, "\nC") || strings.Contains(got, "\nB") || !strings.HasSuffix(got, "\nE\nQ") {
		t.Errorf("got\n%s", got)
	}
}

func TestUnixSockets(t *testing.T) {
	path := testenv.Folder(t) + "/s"
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		if conn, err := ln.Accept(); err == nil {
			defer conn.Close()
			if req, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				io.Copy(io.Discard, req.Body)
				io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{\"score\":1}")
			}
		}
	}()
	s := NewRspamd(Backend{Address: path}, RspamdOptions{})
	if v := scan(t, s, newMessage(t, "", "x\n")); v.Score != 1 {
		t.Error(v)
	}
}

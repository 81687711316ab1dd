package email

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// phases are the beginnings of what a server answers to, in order.
func phases() []string { return []string{"", "EHLO", "MAIL", "RCPT", "DATA", "."} }

// A server that puts mail off, takes leave or breaks off at any point gets the
// message in the end, and once, and the timeline has its words.
func TestServersThatPutOff(t *testing.T) {
	for _, at := range phases() {
		for reply, say := range map[string]string{
			"421 4.3.2 going down!":  "421 4.3.2 going down",
			"450 4.2.1 later":        "450 4.2.1 later",
			"451 4.7.1 greylisted":   "451 4.7.1 greylisted",
			"452 4.3.1 full":         "452 4.3.1 full",
			"400 !":                  "400",
			"250-this is no end\r\n": "", // and then nothing more
		} {
			if say == "" && at == "." {
				continue // see TestNoReplyToTheEnd
			}
			t.Run(fmt.Sprintf("%.8q to %q", reply, at), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := &script{answer: func(conn int, command string) string {
						if conn <= 3 && strings.HasPrefix(command, at) && (at != "" || command == "") {
							return reply
						}
						return ""
					}}
					st := onStage(t, relay("a.example"), s)
					id := st.post("<user@a.example>", toB, "<bob@b.example>")
					time.Sleep(3 * time.Minute)
					early := st.status(id)
					if early.Status != StatusPending && at != "EHLO" { // HELO may do in its place
						t.Errorf("after a minute: %+v", early)
					}
					if !strings.Contains(timeline(early), say) && at != "EHLO" {
						t.Errorf("%q is missing in the timeline:\n%s", say, timeline(early))
					}
					time.Sleep(8 * time.Hour)
					if got := s.got(); !slices.Equal(got, []string{"bob@b.example"}) {
						t.Errorf("taken for %q", got)
					}
					last := st.status(id)
					if last.Status != StatusDelivered || last.Recipients[0].Host != "mx.b.example" || !strings.HasPrefix(last.Recipients[0].Reply, "250 2.0.0 Fine") {
						t.Errorf("in the end: %+v\n%s", last.Recipients, timeline(last))
					}
					for _, m := range st.inbox.all() {
						if !strings.Contains(m.content, "Action: delayed") {
							t.Errorf("the sender is told:\n%s", m.content)
						}
					}
				})
			})
		}
	}
}

// Who refuses for good gets the message once, and the sender its words.
func TestServersThatRefuse(t *testing.T) {
	for _, at := range phases() {
		t.Run(at, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{answer: func(_ int, command string) string {
					if strings.HasPrefix(command, at) && (at != "" || command == "") || at == "EHLO" && strings.HasPrefix(command, "HELO") {
						return "554 5.7.1 go away"
					}
					return ""
				}}
				st := onStage(t, relay("a.example"), s)
				id := st.post("<user@a.example>", toB, "<bob@b.example>")
				time.Sleep(time.Hour)
				got := st.status(id)
				if got.Status != StatusBounced || got.Tries != 1 || got.Recipients[0].Code != "5.7.1" || got.Recipients[0].Reply != "554 5.7.1 go away" ||
					got.Recipients[0].Host != "mx.b.example" || !strings.Contains(timeline(got), "failed mx.b.example") {
					t.Errorf("%+v\n%s", got, timeline(got))
				}
				if mail := st.inbox.all(); len(mail) != 1 || !strings.Contains(mail[0].content, "554 5.7.1 go away") {
					t.Errorf("%d notifications", len(mail))
				}
				if n := len(s.got()); n != 0 {
					t.Errorf("%d taken", n)
				}
			})
		})
	}
}

// If the reply to the content does not come, nobody can know whether the message
// was taken: it is sent again, and the timeline says why (RFC 5321 section 4.2.5).
func TestNoReplyToTheEnd(t *testing.T) {
	for name, answer := range map[string]string{"silence": "-", "a reply without an end": "250-fine\r\n", "broken off": "!"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{conn: func(n int, c net.Conn) {
					converse(c, func(command string) string {
						if command == "." && n == 1 {
							if answer == "-" {
								io.Copy(io.Discard, c)
								return "!"
							}
							return answer
						}
						return ""
					})
				}}
				st := onStage(t, relay("a.example"), s)
				id := st.post("<user@a.example>", toB, "<bob@b.example>")
				time.Sleep(time.Hour)
				got := st.status(id)
				if got.Status != StatusDelivered || got.Tries != 2 || s.connections() != 2 {
					t.Errorf("%d connections: %+v", s.connections(), got)
				}
				if line := timeline(got); !strings.Contains(line, "may have") {
					t.Errorf("the timeline does not say that it may have arrived:\n%s", line)
				}
			})
		})
	}
}

// A server that says too much, or never comes to an end, costs one connection of
// bounded time and size, and the message arrives once it behaves.
func TestEndlessReplies(t *testing.T) {
	for name, flood := range map[string]string{"lines": "250-more and more\r\n", "one line": "250 more and more ", "nothing": "\x00\r\n\r\n"} {
		for _, at := range phases() {
			t.Run(name+" to "+at, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var sent atomic.Int64
					s := &script{conn: func(n int, c net.Conn) {
						converse(c, func(command string) string {
							if n == 1 && strings.HasPrefix(command, at) && (at != "" || command == "") {
								for {
									m, err := io.WriteString(c, flood)
									sent.Add(int64(m))
									if err != nil {
										return "!"
									}
								}
							}
							return ""
						})
					}}
					st := onStage(t, relay("a.example"), s)
					id := st.post("<user@a.example>", toB, "<bob@b.example>")
					time.Sleep(time.Hour)
					if got := st.status(id); got.Status != StatusDelivered {
						t.Errorf("%+v\n%s", got, timeline(got))
					} else if len(got.Timeline[0].Text) > 1000 {
						t.Errorf("%d bytes in the timeline", len(got.Timeline[0].Text))
					}
					if n := sent.Load(); n > 1<<20 {
						t.Errorf("%d bytes were read of a reply", n)
					}
				})
			})
		}
	}
}

// TLS that breaks: mail goes without, where nothing insists on it, and the
// timeline says so.
func TestBrokenTLS(t *testing.T) {
	for name, handshake := range map[string]func(c net.Conn){
		"dropped": func(c net.Conn) {},
		"garbage": func(c net.Conn) { io.WriteString(c, strings.Repeat("what?\r\n", 100)) },
		"silence": func(c net.Conn) { io.Copy(io.Discard, c) },
	} {
		for _, rule := range []string{OpportunisticTLS, StartTLS} {
			t.Run(name+" "+rule, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := &script{conn: func(_ int, c net.Conn) {
						converse(c, func(command string) string {
							switch {
							case strings.HasPrefix(command, "EHLO"):
								return "250-b.example\r\n250 STARTTLS"
							case command == "STARTTLS":
								io.WriteString(c, "220 go on\r\n")
								handshake(c)
								c.Close()
								return "!"
							}
							return ""
						})
					}}
					cfg := relay("a.example")
					cfg.Outbound.TLS = []DestinationTLS{{Domain: "b.example", Mode: rule}}
					st := onStage(t, cfg, s)
					id := st.post("<user@a.example>", toB, "<bob@b.example>")
					time.Sleep(30 * time.Minute)
					got := st.status(id)
					line := timeline(got)
					if want := map[string]string{OpportunisticTLS: StatusDelivered, StartTLS: StatusPending}[rule]; got.Status != want {
						t.Errorf("%+v\n%s", got, line)
					}
					if !strings.Contains(line, "TLS") {
						t.Errorf("the timeline does not tell of TLS:\n%s", line)
					}
				})
			})
		}
	}
}

// Codes that contradict each other, or are none: the first digit of the reply
// decides (RFC 5321 section 4.2.1), and a code of another class is not believed.
func TestWrongStatusCodes(t *testing.T) {
	for reply, want := range map[string]struct{ status, code string }{
		"550 4.2.1 no":                   {StatusBounced, ""},
		"450 5.1.1 no such user":         {StatusPending, ""},
		"550 5.1 no":                     {StatusBounced, ""},
		"550 5.1.1.1 no":                 {StatusBounced, ""},
		"550 5.99999.1 no":               {StatusBounced, ""},
		"550":                            {StatusBounced, ""},
		"250 5.1.1 taken":                {StatusDelivered, ""},
		"250 4.2.1 taken":                {StatusDelivered, ""},
		"299 what":                       {StatusDelivered, ""},
		"199 what":                       {StatusPending, ""},
		"354 go on":                      {StatusPending, ""},
		"600 what":                       {StatusPending, ""},
		"what":                           {StatusPending, ""},
		"550-5.1.1 a\r\n550 5.2.2 b":     {StatusBounced, "5.1.1"},
		"550-5.1.1 a\r\n450 4.2.2 b":     {StatusPending, ""},
		"550 5.7.1 \x1b[31m\x00 caf\xe9": {StatusBounced, "5.7.1"},
	} {
		t.Run(reply, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{answer: func(_ int, command string) string {
					if command == "." {
						return reply
					}
					return ""
				}}
				st := onStage(t, relay("a.example"), s)
				id := st.post("<user@a.example>", toB, "<bob@b.example>")
				time.Sleep(2 * time.Minute)
				got := st.status(id)
				if got.Status != want.status || got.Recipients[0].Code != want.code {
					t.Errorf("%s, %q; want %+v\n%s", got.Status, got.Recipients[0].Code, want, timeline(got))
				}
				if strings.ContainsAny(timeline(got), "\x00\x1b\r") || strings.ContainsRune(timeline(got), '\ufffd') {
					t.Errorf("%q", timeline(got))
				}
				for _, m := range st.inbox.all() {
					status := ""
					for _, f := range fieldsOf(m.content) {
						if v, ok := strings.CutPrefix(f, "Status: "); ok {
							status = v
						}
					}
					if !strings.HasPrefix(status, "5.") || strings.ContainsAny(m.content, "\x00\x1b") {
						t.Errorf("told with status %q:\n%q", status, m.content)
					}
				}
			})
		})
	}
}

// Greylisting puts mail off, and the first retry passes it.
func TestGreylistedByTheNextServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{servers: map[string]*Server{}}
		dns := hosts{"a.example": "192.0.2.1", "b.example": "192.0.2.2"}
		a := inBubble(t, n, relay("a.example"), WithResolver(dns), WithMailbox(newMailbox(nil).take))
		defer a.stop()
		inbox := newMailbox(nil)
		cfg := relay("b.example")
		cfg.Greylisting = &Greylisting{}
		b := inBubble(t, n, cfg, WithResolver(dns), WithMailbox(inbox.take))
		defer b.stop()
		n.servers["192.0.2.2"] = b.Server
		st := &stage{server: a, t: t, n: n}
		id := st.post("<user@a.example>", toB, "<bob@b.example>", "<carol@b.example>")
		time.Sleep(time.Minute)
		if got := st.status(id); got.Status != StatusPending || !strings.Contains(timeline(got), "450 4.7.1 Greylisted, try again in 6") {
			t.Errorf("%+v\n%s", got, timeline(got))
		}
		time.Sleep(10 * time.Minute)
		got := st.status(id)
		if got.Status != StatusDelivered || got.Tries != 2 || len(inbox.all()) != 2 {
			t.Errorf("%d arrived: %+v\n%s", len(inbox.all()), got, timeline(got))
		}
	})
}

// A server whose first host is down, and whose second one takes the mail.
func TestTheNextHostTakesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{}
		dial := func(ctx context.Context, _ netip.Addr, _, address string) (net.Conn, error) {
			if address != "192.0.2.9:25" {
				return nil, &net.OpError{Op: "dial", Net: "tcp", Err: fmt.Errorf("no route to host")}
			}
			ours, theirs := net.Pipe()
			go s.serve(theirs)
			return ours, nil
		}
		st := onStage(t, relay("a.example"), nil, WithDialer(dial), WithResolver(twoHosts{}))
		id := st.post("<user@a.example>", toB, "<bob@b.example>")
		time.Sleep(time.Minute)
		got := st.status(id)
		if got.Status != StatusDelivered || got.Recipients[0].Host != "mx2.b.example" || !strings.Contains(timeline(got), "tried mx1.b.example") ||
			!strings.Contains(timeline(got), "no route to host") {
			t.Errorf("%+v\n%s", got, timeline(got))
		}
	})
}

// twoHosts has two hosts for every domain.
type twoHosts struct{ noDNS }

func (twoHosts) LookupMX(context.Context, string) ([]*net.MX, error) {
	return []*net.MX{{Host: "mx1.b.example.", Pref: 10}, {Host: "mx2.b.example.", Pref: 20}}, nil
}

func (twoHosts) LookupIPAddr(_ context.Context, name string) ([]net.IPAddr, error) {
	if strings.HasPrefix(name, "mx1") {
		return []net.IPAddr{{IP: net.ParseIP("192.0.2.8")}}, nil
	}
	return []net.IPAddr{{IP: net.ParseIP("192.0.2.9")}}, nil
}

// Both kinds of resolvers that one can configure are asked about MX hosts.
func TestResolversAreAsked(t *testing.T) {
	const zone = "b.example. 60 IN MX 10 mx.b.example.\nmx.b.example. 60 IN A 192.0.2.77"
	for name, test := range map[string]struct {
		cfg Config
		opt Option
	}{
		"a resolver with a way of its own": {Config{}, WithResolver(resolver(t, zone))},
		"resolvers of the configuration":   {Config{Resolvers: []string{nameServer(t, zone)}}, WithResolver(nil)},
	} {
		t.Run(name, func(t *testing.T) {
			asked := make(chan string, 100)
			s := start(t, test.cfg, test.opt, WithDialer(func(_ context.Context, _ netip.Addr, _, address string) (net.Conn, error) {
				select {
				case asked <- address:
				default:
				}
				return nil, &net.OpError{Op: "dial", Net: "tcp", Err: net.ErrClosed}
			}))
			if _, err := s.SendEmail(t.Context(), Email{From: "a@example.com", To: []string{"b@b.example"}, Subject: "x", Text: "x"}); err != nil {
				t.Fatal(err)
			}
			waitFor(t, func() bool {
				for {
					select {
					case a := <-asked:
						if a == "192.0.2.77:25" {
							return true
						}
					default:
						return false
					}
				}
			})
		})
	}
}

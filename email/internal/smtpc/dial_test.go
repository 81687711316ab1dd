package smtpc

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/xdg-go/scram"
)

func TestHello(t *testing.T) {
	c := dial(t, config(listen(t, func(p *peer) {
		p.say("220-peer.test", "220 ready")
		p.want("EHLO client.test", "502 not implemented")
		p.want("HELO client.test", "250 peer.test")
		p.want("QUIT", "221 bye")
	})))
	if _, ok := c.Extension("PIPELINING"); ok || c.Greeting().Text() != "peer.test ready" {
		t.Error(c.Greeting())
	}
	c.Quit(t.Context())

	c = dial(t, config(listen(t, func(p *peer) { p.hello("size 10", "AUTH PLAIN LOGIN") })))
	if params, ok := c.Extension("Size"); !ok || params != "10" {
		t.Error(params, ok)
	}

	for _, test := range []struct {
		phase  Phase
		status Status
		code   int
		script func(p *peer)
	}{
		{PhaseGreeting, Permanent, 554, func(p *peer) { p.say("554 go away") }},
		{PhaseGreeting, Temporary, 250, func(p *peer) { p.say("250 what") }},
		{PhaseHello, Temporary, 450, func(p *peer) { p.say("220 hi"); p.want("EHLO", "450 wait") }},
		{PhaseHello, Permanent, 550, func(p *peer) { p.say("220 hi"); p.want("EHLO", "550 no"); p.want("HELO", "550 never") }},
	} {
		_, err := Dial(t.Context(), config(listen(t, test.script)))
		wantError(t, err, test.phase, test.status, test.code)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for _, cfg := range []Config{
		{Address: "127.0.0.1:25"},
		{Address: "127.0.0.1:25", Hostname: "a b"},
		{Address: "127.0.0.1:25", Hostname: "a\r\nMAIL FROM:<>"},
		{Address: "127.0.0.1", Hostname: "client.test"},
		{Hostname: "client.test"},
		{Address: "127.0.0.1:25", Hostname: "client.test", Dialer: &net.Dialer{}, LocalAddr: netip.MustParseAddr("127.0.0.2")},
	} {
		if _, err := Dial(t.Context(), cfg); err == nil {
			t.Errorf("%+v is taken", cfg)
		}
	}
}

func TestLocalAddr(t *testing.T) {
	local := testenv.Loopback(t, "127.0.0.9")
	cfg := config(listen(t, func(p *peer) {
		if got, _, _ := net.SplitHostPort(p.conn.RemoteAddr().String()); got != local {
			t.Errorf("connected from %s", got)
		}
		p.hello()
	}))
	cfg.LocalAddr = netip.MustParseAddr(local)
	dial(t, cfg)
}

func TestRefusedConnection(t *testing.T) {
	_, err := Dial(t.Context(), config(fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(t))))
	wantError(t, err, PhaseConnect, Temporary, 0)
}

func TestTLSModes(t *testing.T) {
	cert, pool := certificate(t, "peer.test")
	other, _ := certificate(t, "other.test")
	starttls := func(cert tls.Certificate) func(p *peer) {
		return func(p *peer) {
			p.hello("STARTTLS", "X-BEFORE")
			p.want("STARTTLS", "220 go on")
			if p.startTLS(cert) {
				p.ehlo("X-AFTER")
				p.closed()
			}
		}
	}
	implicit := func(cert tls.Certificate) func(p *peer) {
		return func(p *peer) {
			if p.startTLS(cert) {
				p.hello("X-AFTER")
				p.closed()
			}
		}
	}
	plain := func(extensions ...string) func(p *peer) {
		return func(p *peer) {
			p.hello(extensions...)
			p.closed()
		}
	}
	refuses := func(p *peer) {
		p.hello("STARTTLS")
		p.want("STARTTLS", "454 4.7.0 not now")
		p.closed()
	}
	injects := func(p *peer) {
		p.hello("STARTTLS")
		p.hear()
		p.say("220 go on\r\n250 2.0.0 this is from somebody else")
		p.closed()
	}
	drops := func(p *peer) {
		p.hello("STARTTLS")
		p.want("STARTTLS", "220 go on")
	}
	const (
		none = iota
		unverified
		verified
	)
	for name, test := range map[string]struct {
		mode    TLSMode
		scripts []func(*peer)
		phase   Phase // where it fails
		want    int   // what TLS there is
	}{
		"opportunistic":              {Opportunistic, []func(*peer){starttls(cert)}, "", verified},
		"opportunistic, wrong name":  {Opportunistic, []func(*peer){starttls(other)}, "", unverified},
		"opportunistic, not offered": {Opportunistic, []func(*peer){plain()}, "", none},
		"opportunistic, refused":     {Opportunistic, []func(*peer){refuses}, "", none},
		"opportunistic, dropped":     {Opportunistic, []func(*peer){drops, plain("STARTTLS")}, "", none},
		"opportunistic, injected":    {Opportunistic, []func(*peer){injects}, PhaseTLS, none},
		"starttls":                   {StartTLS, []func(*peer){starttls(cert)}, "", verified},
		"starttls, wrong name":       {StartTLS, []func(*peer){starttls(other)}, PhaseTLS, none},
		"starttls, not offered":      {StartTLS, []func(*peer){plain()}, PhaseTLS, none},
		"starttls, refused":          {StartTLS, []func(*peer){refuses}, PhaseTLS, none},
		"starttls, dropped":          {StartTLS, []func(*peer){drops}, PhaseTLS, none},
		"starttls, injected":         {StartTLS, []func(*peer){injects}, PhaseTLS, none},
		"implicit":                   {ImplicitTLS, []func(*peer){implicit(cert)}, "", verified},
		"implicit, wrong name":       {ImplicitTLS, []func(*peer){implicit(other)}, PhaseConnect, none},
		"implicit, plaintext":        {ImplicitTLS, []func(*peer){func(p *peer) { p.say("220 peer.test"); p.closed() }}, PhaseConnect, none},
		"none":                       {NoTLS, []func(*peer){plain("STARTTLS")}, "", none},
	} {
		t.Run(name, func(t *testing.T) {
			testenv.Goroutines(t)
			cfg := config(listen(t, test.scripts...))
			cfg.TLS, cfg.ServerName, cfg.TLSConfig = test.mode, "peer.test", &tls.Config{RootCAs: pool}
			c, err := Dial(t.Context(), cfg)
			if test.phase != "" {
				code := 0
				if strings.HasSuffix(name, "refused") {
					code = 454
				}
				wantError(t, err, test.phase, Temporary, code)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			state := c.TLS()
			switch {
			case (state != nil) != (test.want != none):
				t.Errorf("TLS: %+v", state)
			case state == nil:
			case state.Verified != (test.want == verified) || (state.VerifyError == nil) != state.Verified ||
				state.ServerName != "peer.test" || state.Version != "TLS 1.3" || state.CipherSuite == "":
				t.Errorf("TLS: %+v", state)
			}
			if _, before := c.Extension("X-BEFORE"); before {
				t.Error("what was offered before TLS still counts")
			}
			if _, after := c.Extension("X-AFTER"); after != (test.want != none) {
				t.Error("what is offered with TLS is not known")
			}
		})
	}
}

// The host's own settings are kept: any certificate may do, and its own check
// is asked also where nothing insists on one.
func TestTLSConfig(t *testing.T) {
	cert, _ := certificate(t, "other.test")
	script := func(p *peer) {
		if p.startTLS(cert) {
			p.hello()
			p.closed()
		}
	}
	starttls := func(p *peer) {
		p.hello("STARTTLS")
		p.want("STARTTLS", "220 go on")
		p.startTLS(cert)
	}
	plain := func(*peer) { t.Error("tried again without TLS") }
	cfg := config(listen(t, script, script, starttls, plain))
	cfg.TLS, cfg.ServerName = ImplicitTLS, "peer.test"
	cfg.TLSConfig = &tls.Config{InsecureSkipVerify: true}
	if c := dial(t, cfg); c.TLS() == nil || c.TLS().Verified {
		t.Errorf("%+v", c.TLS())
	} else {
		c.Close()
	}
	mine := errors.New("not this one")
	cfg.TLSConfig.VerifyConnection = func(tls.ConnectionState) error { return mine }
	for _, mode := range []TLSMode{ImplicitTLS, Opportunistic} {
		cfg.TLS = mode
		if _, err := Dial(t.Context(), cfg); !errors.Is(err, mine) {
			t.Error(err)
		}
	}
}

func TestRequireTLS(t *testing.T) {
	cert, pool := certificate(t, "peer.test")
	script := func(extensions ...string) func(p *peer) {
		return func(p *peer) {
			if p.startTLS(cert) {
				p.hello(extensions...)
				if len(extensions) > 1 {
					p.want("MAIL FROM:<> REQUIRETLS", "250 ok")
				}
				p.closed()
			}
		}
	}
	cfg := config(listen(t, script("PIPELINING"), script("X", "REQUIRETLS")))
	cfg.TLS, cfg.ServerName, cfg.TLSConfig = ImplicitTLS, "peer.test", &tls.Config{RootCAs: pool}
	c := dial(t, cfg)
	if reply, err := c.Mail(t.Context(), Envelope{RequireTLS: true}); err == nil || reply.Enhanced != "5.7.30" {
		t.Error(reply, err)
	}
	c.Close()
	if reply, err := dial(t, cfg).Mail(t.Context(), Envelope{RequireTLS: true}); err != nil {
		t.Error(reply, err)
	}
}

const secret = "pencil-hunter2"

func encoded(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func TestAuth(t *testing.T) {
	long := strings.Repeat("p", 600)
	for name, test := range map[string]struct {
		offered  string
		password string
		script   func(p *peer)
		want     string // in the error; "" is success
		code     int
	}{
		"PLAIN":      {"LOGIN PLAIN", secret, func(p *peer) { p.want("AUTH PLAIN "+encoded("\x00user\x00"+secret), "235 ok") }, "", 0},
		"PLAIN long": {"PLAIN", long, func(p *peer) { p.want("AUTH PLAIN", "334 "); p.want(encoded("\x00user\x00"+long), "235 ok") }, "", 0},
		"LOGIN": {"login", secret, func(p *peer) {
			p.want("AUTH LOGIN", "334 VXNlcm5hbWU6")
			p.want(encoded("user"), "334 UGFzc3dvcmQ6")
			p.want(encoded(secret), "235 ok")
		}, "", 0},
		"wrong": {"PLAIN", secret, func(p *peer) { p.want("AUTH", "535 5.7.8 wrong") }, "wrong", 535},
		"none":  {"GSSAPI", secret, func(*peer) {}, "offers none", 0},
		"no end": {"PLAIN", secret, func(p *peer) {
			for p.hear() != "" {
				p.say("334 ")
			}
		}, "part in the mechanism", 0},
		"no base64":   {"LOGIN", secret, func(p *peer) { p.want("AUTH LOGIN", "334 ?") }, "part in the mechanism", 0},
		"LOGIN early": {"LOGIN", secret, func(p *peer) { p.want("AUTH LOGIN", "235 ok") }, "part in the mechanism", 0},
		"closed":      {"PLAIN", secret, func(p *peer) { p.hear() }, "closed", 0},
		"NUL":         {"PLAIN", secret + "\x00", func(*peer) {}, "NUL", 0},
		"SASLprep":    {"SCRAM-SHA-256", secret + "\x01", func(*peer) {}, "SASLprep", 0},
		// The server says yes without having shown that it knows the password.
		"SCRAM skipped":  {"SCRAM-SHA-256 PLAIN", secret, func(p *peer) { p.want("AUTH SCRAM-SHA-256 ", "235 ok") }, "part in the mechanism", 0},
		"SCRAM nonce":    {"SCRAM-SHA-256", secret, func(p *peer) { p.want("AUTH", "334 "+encoded("r=other,s=c2FsdA==,i=4096")) }, "nonce", 0},
		"SCRAM few":      {"SCRAM-SHA-256", secret, func(p *peer) { p.scramFirst("i=1") }, "iterations", 0},
		"SCRAM many":     {"SCRAM-SHA-256", secret, func(p *peer) { p.scramFirst("i=2000000000") }, "iterations", 0},
		"SCRAM imposter": {"SCRAM-SHA-256", secret, func(p *peer) { p.scramFirst("i=4096"); p.want("", "334 "+encoded("v="+encoded("x"))) }, "SCRAM", 0},
		"SCRAM half":     {"SCRAM-SHA-256", secret, func(p *peer) { p.scramFirst("i=4096"); p.want("", "235 ok") }, "part in the mechanism", 0},
		"SCRAM":          {"SCRAM-SHA-256 PLAIN", secret, func(p *peer) { p.scram(secret) }, "", 0},
		"SCRAM wrong":    {"SCRAM-SHA-256 PLAIN", secret, func(p *peer) { p.scram("other") }, "wrong", 535},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(listen(t, func(p *peer) {
				p.hello("AUTH " + test.offered)
				test.script(p)
			}))
			cfg.Auth, cfg.AllowPlaintextAuth = &Credentials{"user", test.password}, true
			c, err := Dial(t.Context(), cfg)
			if test.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				c.Close()
				return
			}
			wantError(t, err, PhaseAuth, Temporary, test.code)
			if !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), secret) {
				t.Errorf("the error is %q", err)
			}
		})
	}
}

// scramFirst answers the first message of SCRAM.
func (p *peer) scramFirst(iterations string) {
	first, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(p.hear(), "AUTH SCRAM-SHA-256 "))
	_, nonce, _ := strings.Cut(string(first), "r=")
	p.say("334 " + encoded("r="+nonce+"more,s=c2FsdA==,"+iterations))
}

// scram is a real server of it.
func (p *peer) scram(password string) {
	server, err := scram.SHA256.NewServer(func(string) (scram.StoredCredentials, error) {
		client, err := scram.SHA256.NewClient("user", password, "")
		if err != nil {
			return scram.StoredCredentials{}, err
		}
		return client.GetStoredCredentialsWithError(scram.KeyFactors{Salt: "salt", Iters: 4096})
	})
	if err != nil {
		p.t.Error(err)
		return
	}
	conv := server.NewConversation()
	line := strings.TrimPrefix(p.hear(), "AUTH SCRAM-SHA-256 ")
	for !conv.Done() {
		message, _ := base64.StdEncoding.DecodeString(line)
		answer, err := conv.Step(string(message))
		if err != nil {
			p.say("535 5.7.8 wrong")
			return
		}
		p.say("334 " + encoded(answer))
		line = p.hear()
	}
	p.say("235 ok")
}

// Without TLS no password is sent, unless that is allowed.
func TestAuthNeedsTLS(t *testing.T) {
	for _, mode := range []TLSMode{NoTLS, Opportunistic} {
		cfg := config(listen(t, func(p *peer) {
			p.hello("AUTH PLAIN")
			if line := p.hear(); line != "" {
				t.Errorf("the client said %q", line)
			}
		}))
		cfg.TLS, cfg.Auth = mode, &Credentials{"user", secret}
		_, err := Dial(t.Context(), cfg)
		wantError(t, err, PhaseAuth, Temporary, 0)
	}
	if s := fmt.Sprintf("%v %+v %#v %v", Credentials{"user", secret}, &Credentials{"user", secret}, Credentials{"user", secret}, Config{Auth: &Credentials{"user", secret}}); strings.Contains(s, secret) {
		t.Errorf("the password is in %s", s)
	}
}

// A server that gives one byte now and then does not get more time by it.
func TestSlowReplyEnds(t *testing.T) {
	cfg := config(listen(t, func(p *peer) {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for range tick.C {
			if _, err := p.conn.Write([]byte("2")); err != nil {
				return
			}
		}
	}))
	cfg.Timeouts.Greeting = 300 * time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := Dial(ctx, cfg)
	wantError(t, err, PhaseGreeting, Temporary, 0)
	if ctx.Err() != nil {
		t.Error("only the context ended it")
	}
}

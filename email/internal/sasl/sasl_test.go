package sasl

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/xdg-go/scram"
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

const pass = "pencil"

func bcryptOf(password string) string {
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		return err.Error()
	}
	return string(hash)
}

func argon2Of(password string) string {
	salt := []byte("some salt")
	hash := argon2.IDKey([]byte(password), salt, 1, 64, 2, 32)
	return fmt.Sprintf("$argon2id$v=19$m=64,t=1,p=2$%s$%s", base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(hash))
}

func newUsers(t testing.TB) *Users {
	t.Helper()
	users, err := NewUsers([]User{{"plain", pass}, {"bcrypt", bcryptOf(pass)}, {"argon2", argon2Of(pass)}, {"unicode\u00a0user", "p\u00aass"}, {"com,ma=", pass}})
	if err != nil {
		t.Fatal(err)
	}
	return users
}

func newServer(t testing.TB) *Server {
	t.Helper()
	return NewServer(Config{Authenticator: newUsers(t)})
}

// run makes an exchange with these responses and returns what the last came to.
func run(t testing.TB, s *Server, mechanism string, guard Guard, responses ...[]byte) (*Exchange, []byte, bool, error) {
	t.Helper()
	x, err := s.Start(mechanism, guard)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range responses {
		challenge, done, err := x.Next(t.Context(), r)
		if done || err != nil || i == len(responses)-1 {
			return x, challenge, done, err
		}
	}
	return x, nil, false, nil
}

func TestPlain(t *testing.T) {
	s := newServer(t)
	for response, want := range map[string]error{
		"\x00plain\x00pencil":              nil,
		"plain\x00plain\x00pencil":         nil,
		"\x00bcrypt\x00pencil":             nil,
		"\x00argon2\x00pencil":             nil,
		"\x00unicode user\x00pass":         nil, // RFC 4013 makes them equal
		"\x00plain\x00Pencil":              ErrRejected,
		"\x00plain\x00pencil ":             ErrRejected,
		"\x00bcrypt\x00pencils":            ErrRejected,
		"\x00argon2\x00pencils":            ErrRejected,
		"\x00Plain\x00pencil":              ErrRejected,
		"\x00nobody\x00pencil":             ErrRejected,
		"other\x00plain\x00pencil":         ErrRejected,
		"":                                 ErrMalformed,
		"plain":                            ErrMalformed,
		"plain\x00pencil":                  ErrMalformed,
		"\x00\x00pencil":                   ErrMalformed,
		"\x00plain\x00":                    ErrMalformed,
		"\x00plain\x00pencil\x00":          ErrMalformed,
		"\x00plain\x00pencil\x01":          ErrMalformed,
		"\x00pl\xffain\x00pencil":          ErrMalformed,
		strings.Repeat("x", MaxResponse+1): ErrTooLong,
	} {
		x, challenge, done, err := run(t, s, "plain", nil, []byte(response))
		if !errors.Is(err, want) || !done || challenge != nil || x.Succeeded() != (want == nil) {
			t.Errorf("%.30q: %q, %v, %v", response, challenge, done, err)
		}
		if _, _, err := x.Next(t.Context(), []byte("\x00plain\x00pencil")); err == nil {
			t.Error("an exchange that is over goes on")
		}
	}
	// Without an initial response.
	x, challenge, done, err := run(t, s, "PLAIN", nil, nil)
	if len(challenge) != 0 || challenge == nil || done || err != nil {
		t.Errorf("%q, %v, %v", challenge, done, err)
	}
	if _, done, err := x.Next(t.Context(), []byte("\x00plain\x00pencil")); !done || err != nil || x.Username() != "plain" {
		t.Error(done, err)
	}
}

func TestLogin(t *testing.T) {
	s := newServer(t)
	for _, responses := range [][][]byte{{nil, []byte("plain"), []byte(pass)}, {[]byte("plain"), []byte(pass)}} {
		x, _, done, err := run(t, s, "LOGIN", nil, responses...)
		if !done || err != nil || x.Username() != "plain" || !x.Succeeded() {
			t.Errorf("%q: %v, %v", responses, done, err)
		}
	}
	for _, test := range []struct {
		want      error
		responses [][]byte
	}{
		{ErrRejected, [][]byte{nil, []byte("plain"), []byte("wrong")}},
		{ErrRejected, [][]byte{nil, []byte("nobody"), []byte(pass)}},
		{ErrMalformed, [][]byte{nil, {}}},
		{ErrMalformed, [][]byte{nil, nil}},
		{ErrMalformed, [][]byte{nil, []byte("plain"), {}}},
		{ErrTooLong, [][]byte{nil, []byte(strings.Repeat("x", MaxResponse+1))}},
	} {
		if x, _, done, err := run(t, s, "LOGIN", nil, test.responses...); !done || !errors.Is(err, test.want) || x.Succeeded() {
			t.Errorf("%.40q: %v, %v", test.responses, done, err)
		}
	}
	for i, want := range []string{"Username:", "Password:"} {
		if _, challenge, _, _ := run(t, s, "LOGIN", nil, [][]byte{nil, []byte("plain")}[:i+1]...); string(challenge) != want {
			t.Errorf("the challenge is %q", challenge)
		}
	}
}

// scramClient plays a client and returns the error, and the salt it was given.
func scramClient(t testing.TB, s *Server, user, password, authzID string, guard Guard) (x *Exchange, salt string, err error) {
	t.Helper()
	client, err := scram.SHA256.NewClient(user, password, authzID)
	if err != nil {
		t.Fatal(err)
	}
	conv := client.NewConversation()
	x, err = s.Start("scram-sha-256", guard)
	if err != nil {
		t.Fatal(err)
	}
	response, _ := conv.Step("")
	for {
		challenge, done, err := x.Next(t.Context(), []byte(response))
		if err != nil || done {
			if err == nil && !conv.Valid() {
				t.Error("done before the client knows the server")
			}
			return x, salt, err
		}
		if salt == "" {
			_, rest, _ := strings.Cut(string(challenge), ",s=")
			salt, _, _ = strings.Cut(rest, ",")
		}
		if response, err = conv.Step(string(challenge)); err != nil {
			return x, salt, err
		}
	}
}

func TestScram(t *testing.T) {
	s := newServer(t)
	for _, test := range []struct {
		user, password, authzID string
		want                    error
	}{
		{"plain", pass, "", nil},
		{"plain", pass, "plain", nil},
		{"com,ma=", pass, "", nil},
		{"unicode\u00a0user", "p\u00aass", "", nil},
		{"plain", "wrong", "", ErrRejected},
		{"plain", pass, "other", ErrRejected},
		{"nobody", pass, "", ErrRejected},
		{"bcrypt", pass, "", ErrRejected}, // of a hash there are no keys
		{"argon2", pass, "", ErrRejected},
	} {
		x, _, err := scramClient(t, s, test.user, test.password, test.authzID, nil)
		if !errors.Is(err, test.want) || x.Succeeded() != (test.want == nil) {
			t.Errorf("%s: %v", test.user, err)
		}
	}
	for _, first := range []string{"", "x", "n,,", "n,,n=,r=abc", "n,,n=plain", "p=tls-exporter,,n=plain,r=abc", "n,,m=x,n=plain,r=abc", "n,,n=pl\xffain,r=abc", "n,,n=pl=2Dain,r=abc", "n,,n=plain=,r=abc"} {
		if _, challenge, done, err := run(t, s, ScramSHA256, nil, []byte(first)); !done || err == nil || challenge != nil {
			t.Errorf("%q: %q, %v, %v", first, challenge, done, err)
		}
	}
	for _, final := range []string{"", "x", "c=biws", "c=biws,r=abc,p=AAAA", "c=AAAA,r=abc,p=AAAA"} {
		if x, _, done, err := run(t, s, ScramSHA256, nil, []byte("n,,n=plain,r=abc"), []byte(final)); !done || err == nil || x.Succeeded() {
			t.Errorf("%q: %v, %v", final, done, err)
		}
	}
	if _, challenge, done, err := run(t, s, ScramSHA256, nil, nil); len(challenge) != 0 || done || err != nil {
		t.Errorf("%q, %v, %v", challenge, done, err)
	}
}

// RFC 7677 section 3.
func TestScramKeys(t *testing.T) {
	salt, _ := base64.StdEncoding.DecodeString("W22ZaJ0SNY7soEsUEjb6gQ==")
	keys := deriveScram("pencil", salt)
	client, err := scram.SHA256.NewClient("user", "pencil", "")
	if err != nil {
		t.Fatal(err)
	}
	want, err := client.GetStoredCredentialsWithError(scram.KeyFactors{Salt: string(salt), Iters: 4096})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(keys.StoredKey, want.StoredKey) || !slices.Equal(keys.ServerKey, want.ServerKey) || keys.Iterations != 4096 {
		t.Errorf("%+v", keys)
	}
	auth := "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
	if got := base64.StdEncoding.EncodeToString(hmacSHA256(keys.ServerKey, auth)); got != "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=" {
		t.Errorf("the server's signature is %s", got)
	}
}

// Nothing tells a user that there is from one that there is not: neither salt
// nor the work done.
func TestUnknownUsersLookLikeKnownOnes(t *testing.T) {
	s := newServer(t)
	salts := map[string]string{}
	for _, user := range []string{"plain", "bcrypt", "argon2", "nobody", "nobody2"} {
		_, first, _ := scramClient(t, s, user, "wrong", "", nil)
		_, again, _ := scramClient(t, s, user, "wrong", "", nil)
		if first == "" || first != again || salts[first] != "" {
			t.Errorf("%s has the salts %q and %q", user, first, again)
		}
		salts[first] = user
		if b, err := base64.StdEncoding.DecodeString(first); err != nil || len(b) != 16 {
			t.Errorf("the salt %q of %s", first, user)
		}
	}

	users := newUsers(t)
	kinds := map[string]int{}
	for i := range 40 {
		name := fmt.Sprint("nobody", i)
		c, err := users.Lookup(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if again, _ := users.Lookup(t.Context(), name); again != c {
			t.Fatal("the decoy changes")
		}
		if c.Verify(pass) {
			t.Fatal("a decoy fits")
		}
		if _, ok := c.Scram(make([]byte, 16)); ok {
			t.Fatal("a decoy has keys")
		}
		kinds[fmt.Sprintf("%T", c)]++
	}
	if len(kinds) != 3 {
		t.Errorf("the decoys are %v", kinds)
	}
	// The decoy of a hash has its cost.
	h, err := ParseCredential(argon2Of(pass))
	if err != nil {
		t.Fatal(err)
	}
	a, d := h.(*argon2Hash), decoyOf(h).(*argon2Hash)
	if a.memory != d.memory || a.time != d.time || a.lanes != d.lanes || !d.decoy || a.decoy {
		t.Errorf("%+v, %+v", a, d)
	}
	// Without any user there is work all the same.
	none, err := NewUsers(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := run(t, NewServer(Config{Authenticator: none}), Plain, nil, []byte("\x00a\x00b")); !errors.Is(err, ErrRejected) {
		t.Error(err)
	}
}

// The guard comes before any work, and knows who is claimed.
func TestGuard(t *testing.T) {
	stop := errors.New("slow down")
	s := NewServer(Config{Authenticator: failing{}}) // which must not be asked
	var asked string
	guard := func(_ context.Context, user string) error { asked = user; return stop }
	for mechanism, responses := range map[string][][]byte{
		Plain: {[]byte("\x00plain\x00x")}, Login: {nil, []byte("plain")}, ScramSHA256: {[]byte("n,,n=plain,r=abc")},
	} {
		asked = ""
		x, _, done, err := run(t, s, mechanism, guard, responses...)
		if !done || !errors.Is(err, stop) || asked != "plain" || x.Username() != "plain" || x.Succeeded() {
			t.Errorf("%s: %v, %v, asked for %q", mechanism, done, err, asked)
		}
	}
}

type failing struct{}

var errBroken = errors.New("the directory is down")

func (failing) Lookup(context.Context, string) (Credential, error) { return nil, errBroken }

// A failure to find out is no rejection.
func TestAuthenticatorFails(t *testing.T) {
	s := NewServer(Config{Authenticator: failing{}})
	for mechanism, responses := range map[string][][]byte{
		Plain: {[]byte("\x00plain\x00x")}, Login: {nil, []byte("plain"), []byte("x")}, ScramSHA256: {[]byte("n,,n=plain,r=abc")},
	} {
		if _, _, done, err := run(t, s, mechanism, nil, responses...); !done || !errors.Is(err, errBroken) || errors.Is(err, ErrRejected) {
			t.Errorf("%s: %v, %v", mechanism, done, err)
		}
	}
}

// slow is a credential that waits, and counts.
type slow struct {
	mu       sync.Mutex
	now, max int
	entered  chan struct{}
	release  chan struct{}
}

func (s *slow) Lookup(context.Context, string) (Credential, error) { return s, nil }
func (s *slow) Scram([]byte) (ScramKeys, bool)                     { return ScramKeys{}, false }

func (s *slow) Verify(string) bool {
	s.mu.Lock()
	s.now++
	s.max = max(s.max, s.now)
	s.mu.Unlock()
	s.entered <- struct{}{}
	<-s.release
	s.mu.Lock()
	s.now--
	s.mu.Unlock()
	return true
}

func TestHashingIsBounded(t *testing.T) {
	cred := &slow{entered: make(chan struct{}, 100), release: make(chan struct{})}
	s := NewServer(Config{Authenticator: cred, Hashing: 2})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, _, done, err := run(t, s, Plain, nil, []byte("\x00a\x00b")); !done || err != nil {
				t.Error(done, err)
			}
		})
	}
	<-cred.entered
	<-cred.entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for mechanism, first := range map[string]string{Plain: "\x00a\x00b", ScramSHA256: "n,,n=a,r=abc"} {
		x, err := s.Start(mechanism, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := x.Next(ctx, []byte(first)); !errors.Is(err, context.Canceled) {
			t.Errorf("%s waits beyond its context: %v", mechanism, err)
		}
	}
	close(cred.release)
	wg.Wait()
	if cred.max != 2 {
		t.Errorf("%d at once", cred.max)
	}
}

func TestMechanisms(t *testing.T) {
	s := newServer(t)
	for _, name := range s.Mechanisms() {
		if _, err := s.Start(strings.ToLower(name), nil); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"", "SCRAM-SHA-256-PLUS", "CRAM-MD5", "EXTERNAL", "PLAIN\r\n"} {
		if _, err := s.Start(name, nil); !errors.Is(err, ErrUnknownMechanism) || strings.Contains(err.Error(), "\r") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func FuzzExchange(f *testing.F) {
	f.Add(uint8(0), []byte("\x00plain\x00pencil"), []byte{})
	f.Add(uint8(1), []byte("plain"), []byte("pencil"))
	f.Add(uint8(2), []byte("n,,n=plain,r=abc"), []byte("c=biws,r=abc,p=AAAA"))
	f.Add(uint8(2), []byte("y,a=plain,n=pl=2Cain,r=abc,x=y"), []byte("c=eSws,r=abc,p=AAAA"))
	users, err := NewUsers([]User{{"plain", "pencil"}})
	if err != nil {
		f.Fatal(err)
	}
	s := NewServer(Config{Authenticator: users})
	f.Fuzz(func(t *testing.T, mechanism uint8, first, second []byte) {
		x, err := s.Start(s.Mechanisms()[int(mechanism)%3], nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, response := range [][]byte{first, second, {}} {
			challenge, done, err := x.Next(t.Context(), response)
			if (err != nil) && (!done || challenge != nil || x.Succeeded()) {
				t.Fatalf("%q, %v, %v", challenge, done, err)
			}
			if x.Succeeded() && (x.Username() != "plain" || !strings.Contains(string(first)+string(second), "pencil")) {
				t.Fatalf("%q and %q sign in", first, second)
			}
			if done {
				return
			}
		}
	})
}

package sasl

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func TestCredentials(t *testing.T) {
	for name, s := range map[string]string{
		"plain":          "correct horse",
		"plain, dollars": "$1$correct horse",
		// Of the programs htpasswd and argon2, and with PHP's prefix.
		"2y":       strings.Replace(bcryptOf("correct horse"), "$2a$", "$2y$", 1),
		"2b":       strings.Replace(bcryptOf("correct horse"), "$2a$", "$2b$", 1),
		"2a":       bcryptOf("correct horse"),
		"argon2id": argon2Of("correct horse"),
	} {
		c, err := ParseCredential(s)
		if name == "plain, dollars" {
			if err != nil || !c.Verify(s) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || !c.Verify("correct horse") || c.Verify("correct horses") || c.Verify("") {
			t.Errorf("%s: %v", name, err)
		}
		if _, ok := c.Scram(make([]byte, 16)); ok != (name == "plain") {
			t.Errorf("%s: keys for SCRAM %v", name, ok)
		}
	}
	// bcrypt looks at 72 bytes; more must not be an error of it.
	long := strings.Repeat("x", 72)
	c, err := ParseCredential(bcryptOf(long))
	if err != nil || !c.Verify(long) || !c.Verify(long+"y") || c.Verify(long[1:]) {
		t.Errorf("72 bytes: %v", err)
	}
}

func TestCredentialsAreChecked(t *testing.T) {
	good := argon2Of("x")
	for name, s := range map[string]string{
		"empty":               "",
		"control":             "a\x00b",
		"no UTF-8":            "a\xff",
		"bcrypt short":        bcryptOf("x")[:59],
		"bcrypt long":         bcryptOf("x") + "x",
		"bcrypt cost":         strings.Replace(bcryptOf("x"), "$04$", "$31$", 1),
		"bcrypt no cost":      strings.Replace(bcryptOf("x"), "$04$", "$xx$", 1),
		"argon2i":             strings.Replace(good, "argon2id", "argon2i", 1),
		"argon2 version":      strings.Replace(good, "v=19", "v=16", 1),
		"argon2 memory":       strings.Replace(good, "m=64", "m=4194304", 1),
		"argon2 memory, huge": strings.Replace(good, "m=64", "m=99999999999", 1),
		"argon2 time":         strings.Replace(good, "t=1", "t=4294967295", 1),
		"argon2 zero time":    strings.Replace(good, "t=1", "t=0", 1),
		"argon2 zero lanes":   strings.Replace(good, "p=2", "p=0", 1),
		"argon2 lanes":        strings.Replace(good, "p=2", "p=257", 1),
		"argon2 work":         strings.Replace(good, "m=64,t=1", "m=262144,t=16", 1),
		"argon2 order":        strings.Replace(good, "m=64,t=1", "t=1,m=64", 1),
		"argon2 base64":       good + "=",
		"argon2 short hash":   good[:strings.LastIndex(good, "$")] + "$AAAA",
		"argon2 no salt":      strings.Replace(good, "c29tZSBzYWx0", "", 1),
		"argon2 parts":        good + "$",
	} {
		c, err := ParseCredential(s)
		if err == nil {
			t.Errorf("%s: %T is taken", name, c)
		} else if s != "" && strings.Contains(err.Error(), s) {
			t.Errorf("%s: the error shows it: %v", name, err)
		}
	}
	for want, list := range map[string][]User{
		"users[1]: the name": {{"a", "x"}, {"", "x"}},
		"twice":              {{"a", "x"}, {"a", "y"}},
		"users[0]: the pass": {{"a", ""}},
		"users[0]: the bcr":  {{"a", "$2b$hunter2"}},
	} {
		if _, err := NewUsers(list); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v, not %q", err, want)
		}
	}
}

func FuzzCredential(f *testing.F) {
	for _, s := range []string{"x", "$2b$04$x", "$argon2id$v=19$m=64,t=1,p=2$c29tZSBzYWx0$AAAA", "$argon2id$v=19$m=,t=,p=$$", "$2y$31$"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseCredential(s)
		if err != nil {
			return
		}
		switch c := c.(type) {
		case *bcryptHash:
		case *argon2Hash:
			if uint64(c.memory)*uint64(c.time) > maxArgon2Work || c.lanes == 0 {
				t.Errorf("%q costs %+v", s, c)
			}
		default:
			if prepared, err := prepare(s); err != nil || !c.Verify(prepared) {
				t.Errorf("%q is not its own password", s)
			}
		}
	})
}

// Hashes that other programs make are read.
func TestHashesOfOthers(t *testing.T) {
	argon := exec.Command(testenv.Need(t, "argon2", "apt-get install argon2"), "some salt", "-id", "-t", "2", "-k", "1024", "-p", "2", "-e")
	argon.Stdin = strings.NewReader("correct horse")
	doveadm := exec.Command(testenv.Need(t, "doveadm", "apt-get install dovecot-core"), "pw", "-s", "BLF-CRYPT", "-r", "5", "-p", "correct horse")
	for _, program := range []*exec.Cmd{argon, doveadm} {
		out, err := program.Output()
		if err != nil {
			t.Fatalf("%s: %v: %s", program.Path, err, out)
		}
		hash := strings.TrimPrefix(strings.TrimSpace(string(out)), "{BLF-CRYPT}")
		c, err := ParseCredential(hash)
		if err != nil {
			t.Errorf("%s: %v", hash, err)
			continue
		}
		if !c.Verify("correct horse") || c.Verify("correct horses") {
			t.Errorf("%s is not of the password", hash)
		}
	}
}

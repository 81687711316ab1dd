package password

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter/internal/testenv"
)

func TestHash(t *testing.T) {
	h := New("correct horse")
	back, err := Parse(h.String())
	if err != nil {
		t.Fatal(err)
	}
	if !back.Verify("correct horse") || back.Verify("correct horsf") || back.Verify("") || back.Verify(strings.Repeat("a", MaxLength+1)) {
		t.Error("verified wrongly")
	}
	if h.Dummy().Verify("correct horse") {
		t.Error("the dummy fits")
	}
	if !strings.HasPrefix(h.String(), "$argon2id$v=19$m=7168,t=5,p=1$") {
		t.Errorf("got %s", h)
	}
}

func TestReferenceProgram(t *testing.T) {
	tool := testenv.Need(t, "argon2", "apt-get install argon2")
	cmd := exec.Command(tool, "somesalt", "-id", "-k", "1024", "-t", "2", "-p", "2", "-e")
	cmd.Stdin = strings.NewReader("päßword")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	h, err := Parse(strings.TrimSpace(string(out)))
	if err != nil || !h.Verify("päßword") || h.Verify("password") {
		t.Errorf("%s: %v", out, err)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, text := range []string{
		"", "$argon2id$", "hunter2", "$argon2i$v=19$m=64,t=1,p=1$c29tZXNhbHQ$MDEyMzQ1Njc4OWFiY2RlZg",
		"$argon2id$v=16$m=64,t=1,p=1$c29tZXNhbHQ$MDEyMzQ1Njc4OWFiY2RlZg",
		"$argon2id$v=19$m=64,t=1$c29tZXNhbHQ$MDEyMzQ1Njc4OWFiY2RlZg",
		"$argon2id$v=19$m=0,t=1,p=1$c29tZXNhbHQ$MDEyMzQ1Njc4OWFiY2RlZg",
		"$argon2id$v=19$m=4194304,t=1,p=1$c29tZXNhbHQ$MDEyMzQ1Njc4OWFiY2RlZg",
		"$argon2id$v=19$m=64,t=1,p=1$c2$MDEyMzQ1Njc4OWFiY2RlZg",
		"$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ$!!",
	} {
		if _, err := Parse(text); err == nil {
			t.Errorf("%q was accepted", text)
		} else if strings.Contains(err.Error(), "c29tZXNhbHQ") {
			t.Errorf("%v shows the hash", err)
		}
	}
}

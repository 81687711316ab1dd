package email

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter/email/internal/compose"
	"github.com/dcrouter/dcrouter/internal/conf"
)

func TestEmailValidate(t *testing.T) {
	bad := Email{From: "x", To: []string{"a@example.com"}, Queue: "fast", Metadata: map[string]string{"a": strings.Repeat("x", 5000)}, Headers: map[string]string{"Bcc": "b@example.com"}}
	var paths []string
	for _, f := range conf.Fields(bad.Validate()) {
		paths = append(paths, f.Path)
	}
	if got := strings.Join(paths, " "); got != `queue metadata from headers["Bcc"]` {
		t.Errorf("mistakes in %s", got)
	}
	good := Email{From: "Ann <a@example.com>", To: []string{"b@example.com"}, Text: "Hi", Metadata: map[string]string{"order": "1234-secret"},
		Attachments: []Attachment{{Filename: "x.txt", Content: []byte("x")}}}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	p, err := good.prepare(compose.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := p.Write(&b); err != nil || strings.Contains(b.String(), "1234-secret") || !strings.Contains(b.String(), "filename=x.txt") {
		t.Errorf("%v: %s", err, b.String())
	}
}

// TestEmailJSON: what is sent may come as JSON.
func TestEmailJSON(t *testing.T) {
	var e Email
	err := json.Unmarshal([]byte(`{"from":"a@example.com","to":["b@example.com"],"headers":{"X-A":"1"},"attachments":[{"filename":"a","content":"eHl6"}]}`), &e)
	if err != nil || e.From == "" || len(e.To) != 1 || len(e.Attachments) != 1 || string(e.Attachments[0].Content) != "xyz" {
		t.Errorf("%+v, %v", e, err)
	}
	if _, err := json.Marshal(&e); err != nil {
		t.Error(err)
	}
}

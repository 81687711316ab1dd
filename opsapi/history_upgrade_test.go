package opsapi

import (
	"bytes"
	"encoding/json"
	"testing"
)

// A host that writes its configuration otherwise than before, as after an upgrade,
// goes on with what was changed through the API, of which that makes no version.
func TestConfigurationOutlastsUpgrade(t *testing.T) {
	store, h := openStore(t), newHost()
	x := openHistory(t, h, store)
	if _, err := x.apply(t.Context(), greetChange(h, "changed", 0)); err != nil {
		t.Fatal(err)
	}
	x.close()
	// That other version escapes a letter.
	rewrite := func(doc json.RawMessage) json.RawMessage {
		return bytes.Replace(doc, []byte(`"apiToken"`), []byte(`"\u0061piToken"`), 1)
	}
	for i := range x.v.list {
		r, err := x.v.read(t.Context(), versionKey(i+1))
		if err != nil {
			t.Fatal(err)
		}
		r.Document = rewrite(r.Document)
		r.Hash = x.hash(r.Document)
		if err := x.v.write(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	head := x.v.head
	head.Given = rewrite(head.Given)
	if err := x.v.setHead(t.Context(), head); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		h = newHost()
		x = openHistory(t, h, store)
		if now, err := x.get(t.Context(), 0); err != nil || now.Version != 2 || now.Author != "ann" || h.greeting() != "changed" {
			t.Errorf("the host says %q, the version is %+v, %v", h.greeting(), now, err)
		}
		x.close()
	}
}

// A history that says by its hash alone what the host was started with is good, too.
func TestConfigurationOutlastsRestartByHash(t *testing.T) {
	store, h := openStore(t), newHost()
	x := openHistory(t, h, store)
	if _, err := x.apply(t.Context(), greetChange(h, "changed", 0)); err != nil {
		t.Fatal(err)
	}
	x.close()
	head := x.v.head
	head.Given, head.Base = nil, x.hash(head.Given)
	if err := x.v.setHead(t.Context(), head); err != nil {
		t.Fatal(err)
	}
	h = newHost()
	x = openHistory(t, h, store)
	x.close()
	if h.greeting() != "changed" || len(x.v.head.Given) == 0 {
		t.Errorf("the host says %q, %+v", h.greeting(), x.v.head)
	}
}

// A version is stored as it is: with characters that HTML would have otherwise it
// looked like another one at the next start, and was gone at the one after that.
func TestDocumentsAreStoredAsTheyAre(t *testing.T) {
	store, h := openStore(t), newHost()
	x := openHistory(t, h, store)
	if _, err := x.apply(t.Context(), greetChange(h, "a & b", 0)); err != nil {
		t.Fatal(err)
	}
	x.close()
	for range 2 {
		h = newHost()
		x = openHistory(t, h, store)
		x.close()
		if h.greeting() != "a & b" || len(x.v.list) != 2 {
			t.Errorf("the host says %q, %+v", h.greeting(), x.v)
		}
	}
}

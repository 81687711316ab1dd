package main

import (
	"net/http/httptest"
	"testing"

	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
	"github.com/dcrouter/dcrouter/storage/storagetest"
)

func TestMain(m *testing.M) { testenv.Main(m, main) }

func TestExample(t *testing.T) {
	testenv.Need(t, "dig", "apt-get install bind9-dnsutils")
	testenv.Need(t, "curl", "apt-get install curl")
	p := testenv.StartMain(t, testenv.Opts{}, "-listen", testenv.Address(t))
	p.Try(t, "dig", "192.0.2.80")
	p.Try(t, "/keys", `"_meta/schema"`, `"example/starts"`)
	if out := p.Try(t, "/value"); out != "2" {
		t.Errorf("%q starts", out)
	}
	p.Interrupt(t)
}

// What the functions promise is told at storage.ReadFunc and the others.
func TestFunctions(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storage.Backend {
		server := httptest.NewServer(keyValueServer())
		t.Cleanup(server.Close)
		db := &client{base: server.URL}
		return storage.Funcs(db.read, db.write, storage.WithList(db.list), storage.WithDelete(db.delete))
	})
}

package dcrouter

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/proxy"
	"github.com/dcrouter/dcrouter/storage"
)

// lateStorage is one that takes longer for routes of mail than the client has
// patience.
type lateStorage struct {
	storage.Backend
	giveUp context.CancelFunc
}

func (l *lateStorage) Put(ctx context.Context, key string, value []byte) error {
	if l.giveUp != nil && strings.HasPrefix(key, "email/routes") {
		l.giveUp()
		return errors.New("timeout")
	}
	return l.Backend.Put(ctx, key, value)
}

// A configuration that fails half way because its time is over is taken back all
// the same.
func TestHalfAConfigurationIsTakenBack(t *testing.T) {
	route := func(name string, port int) proxy.Route {
		return proxy.Route{Name: name, Match: proxy.Match{Ports: proxy.Ports(port)},
			Action: proxy.Action{Type: proxy.Forward, Targets: []proxy.Target{{Host: "127.0.0.1", Port: 1}}}}
	}
	mail := email.Route{Match: email.Match{Recipients: []string{"*@example.com"}},
		Action: email.Action{Type: email.Reject, Reject: &email.RejectAction{Code: 550, Message: "no"}}}
	backend := &lateStorage{Backend: storage.Memory()}
	r, err := New(WithStorage(struct{ storage.Backend }{backend}),
		WithProxy(proxy.Config{ListenHost: "127.0.0.1", Routes: []proxy.Route{route("web", testenv.FreePort(t))}}),
		WithEmail(email.Config{ListenHost: "127.0.0.1", Ports: []email.Port{{Port: 0}}, Hostname: "mx.example.com",
			Domains: []email.Domain{{Domain: "example.com"}}, Routes: []email.Route{mail}}))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer r.Stop(context.Background())

	o := &opsConfiguration{router: r}
	next := o.live()
	next.Proxy = &proxy.Config{ListenHost: "127.0.0.1", Routes: []proxy.Route{route("other", testenv.FreePort(t))}}
	other := *next.Email
	other.Routes = []email.Route{mail, mail}
	other.Routes[1].Match.Recipients = []string{"*@other.example.com"}
	next.Email = &other
	doc, err := conf.Encode(next, true)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	backend.giveUp = cancel
	if err := o.Apply(ctx, doc); err == nil || strings.Contains(err.Error(), "smartProxyConfig") {
		t.Errorf("got %v", err)
	}
	if routes := r.Routes(); len(routes) != 1 || routes[0].Name != "web" {
		t.Errorf("the routes are %v", routes)
	}
}

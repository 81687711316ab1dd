package opsapi

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/argon2"

	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/storage"
)

// hostConfig is the configuration of the host program of these tests.
type hostConfig struct {
	Proxy    *hostProxy  `json:"proxy"`
	APIToken conf.Secret `json:"apiToken"`
	Greeting string      `json:"greeting"`
}

type hostProxy struct {
	Routes []hostRoute `json:"routes"`
}

type hostRoute struct {
	Name     string      `json:"name" conf:"key"`
	Port     int         `json:"port"`
	Password conf.Secret `json:"password"`
}

func (c *hostConfig) Validate() error {
	check := conf.NewChecker()
	if c.Proxy != nil {
		for i, r := range c.Proxy.Routes {
			check.Field("proxy").Field("routes").Index(i).Field("port").Port(r.Port)
		}
	}
	return check.Err()
}

// host is a program that embeds the API: a configuration, and a little of
// everything that can be managed.
type host struct {
	mu       sync.Mutex
	config   hostConfig
	given    json.RawMessage
	applied  int
	failWith error // what Apply says

	messages   []QueuedMessage
	suppressed []Suppressed
	blocks     []Block
	records    []Record
	sessions   []RADIUSSession
	done       []string // what was asked for
}

const (
	secretToken   = "s3cret-token-of-the-host"
	secretRoute   = "s3cret-password-of-a-route"
	adminPassword = "s3cret-password-of-admin"
	otherPassword = "s3cret-password-of-others"
	metricsToken  = "s3cret-token-for-metrics"
)

func newHost() *host {
	now := time.Now().UTC()
	h := &host{
		config: hostConfig{Proxy: &hostProxy{[]hostRoute{{"web", 443, secretRoute}, {"mail", 25, ""}}}, APIToken: secretToken},
		messages: []QueuedMessage{
			{ID: "m1", From: "a@example.com", Recipients: []QueuedRecipient{{Address: "b@example.net", State: "pending"}}, Size: 100, Arrived: now, State: StateQueued},
			{ID: "m2", From: "", State: StateQuarantine, Arrived: now, Reason: "spam"},
		},
		records:  []Record{{"www.example.com.", "A", "192.0.2.1", 300}, {"mail.example.com.", "A", "192.0.2.2", 300}},
		sessions: []RADIUSSession{{Key: "k1", ID: "s1", Source: "192.0.2.9", UserName: "ann", Start: now}},
	}
	h.begin()
	return h
}

// begin makes the configuration the one that the host is started with.
func (h *host) begin() {
	var err error
	if h.given, err = conf.Encode(h.config, true); err != nil {
		panic(err)
	}
}

func (h *host) Current(context.Context) (json.RawMessage, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return conf.Encode(h.config, true)
}

func (h *host) Given(context.Context) (json.RawMessage, error) { return h.given, nil }

func (h *host) Parse(_ context.Context, doc, prev json.RawMessage) (json.RawMessage, error) {
	var c, before hostConfig
	if err := conf.Decode(doc, &c); err != nil {
		return nil, err
	}
	if err := conf.Decode(prev, &before); err != nil {
		return nil, err
	}
	if err := errors.Join(conf.KeepSecrets(&c, &before), c.Validate()); err != nil {
		return nil, err
	}
	return conf.Encode(c, true)
}

func (h *host) Redact(doc json.RawMessage) (json.RawMessage, error) {
	var c hostConfig
	if err := conf.Decode(doc, &c); err != nil {
		return nil, err
	}
	return conf.Encode(c, false)
}

func (h *host) Apply(_ context.Context, doc json.RawMessage) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failWith != nil {
		return h.failWith
	}
	var c hostConfig
	if err := conf.Decode(doc, &c); err != nil {
		return err
	}
	h.config, h.applied = c, h.applied+1
	return nil
}

// set is the host changing its configuration by itself.
func (h *host) set(change func(*hostConfig)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(&h.config)
}

// fail makes Apply fail, or not any more.
func (h *host) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failWith = err
}

func (h *host) greeting() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.config.Greeting
}

func (h *host) note(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.done = append(h.done, fmt.Sprintf(format, args...))
}

func (h *host) Messages(_ context.Context, state string, p Page) ([]QueuedMessage, string, error) {
	var list []QueuedMessage
	for _, m := range h.messages {
		if (state == "" || m.State == state) && m.ID > p.After && len(list) < p.Limit {
			list = append(list, m)
		}
	}
	next := ""
	if len(list) == p.Limit {
		next = list[len(list)-1].ID
	}
	return list, next, nil
}

func (h *host) find(id string) error {
	if !slices.ContainsFunc(h.messages, func(m QueuedMessage) bool { return m.ID == id }) {
		return fmt.Errorf("message %q: %w", id, ErrNotFound)
	}
	return nil
}

func (h *host) Message(_ context.Context, id string) (MessageDetail, error) {
	return MessageDetail{Message: &h.messages[0], Timeline: []MessageEvent{{Time: time.Now(), Kind: "received", Text: "from 192.0.2.1"}}}, h.find(id)
}

func (h *host) act(what, id string) error {
	h.note("%s %s", what, id)
	return h.find(id)
}

func (h *host) Retry(_ context.Context, id string) error              { return h.act("retry", id) }
func (h *host) Drop(_ context.Context, id string) error               { return h.act("drop", id) }
func (h *host) Release(_ context.Context, id string) error            { return h.act("release", id) }
func (h *host) Quarantine(_ context.Context, id, reason string) error { return h.act("quarantine", id) }

func (h *host) Suppressed(context.Context, Page) ([]Suppressed, string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.suppressed), "", nil
}

func (h *host) Suppress(_ context.Context, s Suppressed) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.suppressed = append(h.suppressed, s)
	return nil
}

func (h *host) Unsuppress(_ context.Context, address string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	before := len(h.suppressed)
	h.suppressed = slices.DeleteFunc(h.suppressed, func(s Suppressed) bool { return s.Address == address })
	if len(h.suppressed) == before {
		return ErrNotFound
	}
	return nil
}

func (h *host) Blocks(context.Context, Page) ([]Block, string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.blocks), "", nil
}

func (h *host) AddBlock(_ context.Context, b Block) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.blocks = append(h.blocks, b)
	return nil
}

func (h *host) RemoveBlock(_ context.Context, address string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	before := len(h.blocks)
	if h.blocks = slices.DeleteFunc(h.blocks, func(b Block) bool { return b.Address == address }); len(h.blocks) == before {
		return ErrNotFound
	}
	return nil
}

func (h *host) MailDomains(context.Context) ([]MailDomain, error) {
	return []MailDomain{{Domain: "example.com", Mode: "external-dns", Records: []MailRecord{{Name: "example.com", Type: "MX", Value: "10 mx.example.com", State: "missing"}}}}, nil
}

func (h *host) CheckReputation(_ context.Context, address string) (Reputation, error) {
	return Reputation{Address: address, Score: 0.5}, nil
}

func (h *host) Zones(context.Context) ([]Zone, error) {
	return []Zone{{Name: "example.com.", Serial: 1, Loaded: true, Names: 2}}, nil
}

func (h *host) Records(_ context.Context, zone string, p Page) ([]Record, string, error) {
	if zone != "example.com." && zone != "example.com" {
		return nil, "", fmt.Errorf("zone %q: %w", zone, ErrNotFound)
	}
	return h.records, "", nil
}

func (h *host) UpdateRecords(_ context.Context, c RecordChanges) error {
	h.note("records %d %d %d", len(c.Set), len(c.Add), len(c.Remove))
	for i, r := range c.Set {
		if r.Type == "BOGUS" {
			return &FieldError{Path: fmt.Sprintf("set[%d].type", i), Msg: `"BOGUS" is no type`}
		}
	}
	return nil
}

func (h *host) Certificates(context.Context) ([]Certificate, error) {
	return []Certificate{{Name: "example.com", Source: "acme", State: "valid"}}, nil
}

func (h *host) Renew(_ context.Context, name string) error {
	if name != "example.com" {
		return ErrNotFound
	}
	h.note("renew %s", name)
	return nil
}

func (h *host) Sessions(context.Context, Page) ([]RADIUSSession, string, error) {
	return h.sessions, "", nil
}

func (h *host) Clients(context.Context) ([]RADIUSClient, error) {
	return []RADIUSClient{{Name: "switch", Address: "192.0.2.9", Requests: 7}}, nil
}

func (h *host) Disconnect(_ context.Context, key string) error {
	if key != "k1" {
		return ErrNotFound
	}
	h.note("disconnect %s", key)
	return nil
}

// desk is a running Server with its host.
type desk struct {
	t      *testing.T
	host   *host
	server *Server
	logs   *LogBuffer
	log    *slog.Logger
	base   string
	client *http.Client
}

func testConfig() Config {
	return Config{Port: new(int), Admin: Admin{"admin", cheapHash(adminPassword)},
		Users: []User{{"vera", cheapHash(otherPassword), "viewer"}, {"otto", cheapHash(otherPassword), "operator"}}}
}

// cheapHash takes next to no time, so that tests may sign in often.
func cheapHash(password string) Secret {
	enc := base64.RawStdEncoding.EncodeToString
	salt := []byte("saltsalt")
	return Secret(fmt.Sprintf("$argon2id$v=19$m=8,t=1,p=1$%s$%s", enc(salt), enc(argon2.IDKey([]byte(password), salt, 1, 8, 1, 32))))
}

// openDesk starts a Server on everything that the host has.
func openDesk(t *testing.T, h *host, store *storage.Store, opts ...Option) *desk {
	return openDeskWith(t, h, store, testConfig(), opts...)
}

func openDeskWith(t *testing.T, h *host, store *storage.Store, cfg Config, opts ...Option) *desk {
	t.Helper()
	logs := NewLogBuffer(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	d := &desk{t: t, host: h, logs: logs, log: slog.New(logs), client: &http.Client{Transport: &http.Transport{}, Timeout: time.Minute}}
	all := []Option{
		WithLogger(d.log), WithLogs(logs), WithVersion("1.2.3"),
		WithStats(func() any { return map[string]any{"requests": 7, "config": h.config} }),
		WithLimits(func() []Limit {
			return []Limit{{Name: "smartProxyConfig.maxConnections", Unit: "connections", From: "default"}}
		}),
		WithHealth(func(context.Context) []Component {
			return []Component{{Name: "proxy", Ready: true, Detail: "2 routes", Addresses: []string{"127.0.0.1:443"}}, {Name: "mail", Ready: true}}
		}),
		WithConfiguration(h), WithRoutesAt("proxy", "routes"),
		WithMailQueue(h), WithSuppression(h), WithMailDomains(h), WithReputation(h), WithDNS(h), WithCertificates(h), WithRADIUS(h), WithBlocks(h),
	}
	if store != nil {
		all = append(all, WithStorage(store))
	}
	var err error
	if d.server, err = New(cfg, append(all, opts...)...); err != nil {
		t.Fatal(err)
	}
	if err := d.server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.stop)
	d.base = "http://" + d.server.Addr().String()
	return d
}

func (d *desk) stop() {
	d.client.CloseIdleConnections() // Shutdown waits five seconds for one that has sent nothing yet
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := d.server.Stop(ctx); err != nil {
		d.t.Errorf("Stop: %v", err)
	}
}

func openStore(t *testing.T) *storage.Store {
	t.Helper()
	store, err := storage.Open(t.Context(), storage.Memory())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

// answer is what came back.
type answer struct {
	t      *testing.T
	status int
	header http.Header
	body   []byte
}

// post calls a method in its REST form.
func (d *desk) post(token, method string, request any, headers ...string) answer {
	d.t.Helper()
	body, err := json.Marshal(request)
	if err != nil {
		d.t.Fatal(err)
	}
	return d.send(http.MethodPost, "/api/v1/"+method, token, body, headers...)
}

func (d *desk) send(verb, path, token string, body []byte, headers ...string) answer {
	d.t.Helper()
	r, err := http.NewRequestWithContext(d.t.Context(), verb, d.base+path, bytes.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	resp, err := d.client.Do(r)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	a := answer{t: d.t, status: resp.StatusCode, header: resp.Header}
	if a.body, err = io.ReadAll(resp.Body); err != nil {
		d.t.Fatal(err)
	}
	return a
}

// into reads a good answer.
func (a answer) into(v any) {
	a.t.Helper()
	if a.status != http.StatusOK {
		a.t.Fatalf("status %d: %s", a.status, a.body)
	}
	if err := json.Unmarshal(a.body, v); err != nil {
		a.t.Fatalf("%v in %s", err, a.body)
	}
}

// fails wants an error.
func (a answer) fails(status int, code string) map[string]any {
	a.t.Helper()
	var e struct{ Error wireError }
	if err := json.Unmarshal(a.body, &e); err != nil || a.status != status || asText(e.Error.Data["code"]) != code {
		a.t.Fatalf("got %d %s, want %d %s", a.status, a.body, status, code)
	}
	return e.Error.Data
}

// signIn returns a token.
func (d *desk) signIn(name, password string) string {
	d.t.Helper()
	a := d.post("", "adminLoginWithUsernameAndPassword", object{"username": name, "password": password})
	var got struct {
		Identity struct{ JWT string }
	}
	a.into(&got)
	return got.Identity.JWT
}

func (d *desk) admin() string  { d.t.Helper(); return d.signIn("admin", adminPassword) }
func (d *desk) viewer() string { d.t.Helper(); return d.signIn("vera", otherPassword) }

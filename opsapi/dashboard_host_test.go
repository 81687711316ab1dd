package opsapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter"
	"github.com/dcrouter/dcrouter/dnsserver"
	"github.com/dcrouter/dcrouter/email"
	"github.com/dcrouter/dcrouter/internal/conf"
	"github.com/dcrouter/dcrouter/opsapi"
	"github.com/dcrouter/dcrouter/proxy"
	"github.com/dcrouter/dcrouter/radius"
)

// gateway is what the dashboard's tests look at: the configuration and the
// counters of a Router, with made-up contents.
type gateway struct {
	log   *slog.Logger
	given json.RawMessage

	mu       sync.Mutex
	config   dcrouter.Config
	ticks    int
	stats    dcrouter.Stats
	messages []opsapi.QueuedMessage
	blocked  []opsapi.Suppressed
	refused  []opsapi.Block
	records  []opsapi.Record
	sessions []opsapi.RADIUSSession
	done     []string // what was asked for
}

const gatewayConfig = `{
  "smartProxyConfig": {
    "routes": [
      {"name": "api-gateway", "match": {"domains": ["api.example.com"], "ports": [443]},
        "action": {"type": "forward", "targets": [{"host": "192.0.2.20", "port": 8080}, {"host": "192.0.2.21", "port": 8080}], "tls": {"mode": "terminate", "certificate": "auto"}}},
      {"name": "static-assets", "match": {"domains": ["cdn.example.com", "img.example.com"], "ports": [443]},
        "action": {"type": "serve", "root": "/var/www/static", "tls": {"mode": "terminate", "certificate": "auto"}}},
      {"name": "database", "match": {"ports": [5432]}, "action": {"type": "forward", "targets": [{"host": "192.0.2.40", "port": 5432}]}}
    ],
    "acme": {"email": "ops@example.com"}
  },
  "emailConfig": {
    "ports": [25, 587], "hostname": "mail.example.com",
    "domains": [{"domain": "example.com", "dnsMode": "external-dns"}],
    "routes": [{"name": "inbound", "match": {"recipients": "*@example.com"}, "action": {"type": "process"}}]
  },
  "dnsNsDomains": ["ns1.example.com"],
  "radiusConfig": {
    "secret": "s3cret-of-the-switches",
    "clients": [{"name": "switch-1", "ip": "192.0.2.9", "secret": "s3cret-of-switch-one"}],
    "vlanAssignment": [{"match": {"mac": "aa:bb:cc:*"}, "vlan": 100}, {"match": {"default": true}, "vlan": 999}]
  }
}`

func newGateway(log *slog.Logger) (*gateway, error) {
	config, err := dcrouter.LoadConfig(strings.NewReader(gatewayConfig))
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC()
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	g := &gateway{log: log, config: config}
	g.messages = []opsapi.QueuedMessage{
		{ID: "01JDW2K9Q7", From: "newsletter@example.com", Recipients: []opsapi.QueuedRecipient{
			{Address: "ann@example.net", Route: "outbound", State: "delivered", Reply: "250 2.0.0 Ok: queued as 4F1C"},
			{Address: "bob@example.org", Route: "outbound", State: "pending", Reply: "451 4.7.1 Greylisted, try again later"},
		}, Size: 48_213, Arrived: ago(26 * time.Minute), Next: now.Add(4 * time.Minute), Tries: 3, State: opsapi.StateDeferred, Reason: "451 4.7.1 Greylisted, try again later"},
		{ID: "01JDW2M0X1", From: "alerts@example.com", Recipients: []opsapi.QueuedRecipient{{Address: "oncall@example.net", Route: "outbound", State: "pending"}},
			Size: 2_310, Arrived: ago(20 * time.Second), State: opsapi.StateQueued},
		{ID: "01JDW2H3B8", From: "winner@lottery.example", Recipients: []opsapi.QueuedRecipient{{Address: "info@example.com", Route: "inbound", State: "pending"}},
			Size: 12_841, Arrived: ago(3 * time.Hour), Next: now.Add(165 * time.Hour), State: opsapi.StateQuarantine, Reason: "spam: score 11.2 of 6"},
		{ID: "01JDW1ZZ04", From: "", Recipients: []opsapi.QueuedRecipient{{Address: "gone@example.org", Route: "outbound", State: "failed", Reply: "550 5.1.1 No such user"}},
			Size: 4_096, Arrived: ago(50 * time.Hour), Tries: 9, State: opsapi.StateFailed, Reason: "550 5.1.1 No such user"},
	}
	g.refused = []opsapi.Block{
		{Address: "198.51.100.0/24", Source: "configuration", Reason: "on the configuration's list"},
		{Address: "203.0.113.77/32", Source: "email", Reason: "mail sign-in-failed", Since: time.Now().Add(-time.Hour), Until: time.Now().Add(time.Hour), Times: 2},
	}
	g.blocked = []opsapi.Suppressed{
		{Address: "gone@example.org", Reason: "bounce", Detail: "550 5.1.1 No such user", Since: ago(50 * time.Hour)},
		{Address: "angry@example.net", Reason: "complaint", Since: ago(400 * time.Hour), Expires: now.Add(2000 * time.Hour)},
	}
	g.records = []opsapi.Record{
		{Name: "example.com.", Type: "MX", Value: "10 mail.example.com.", TTL: 3600}, {Name: "mail.example.com.", Type: "A", Value: "192.0.2.25", TTL: 3600},
		{Name: "www.example.com.", Type: "A", Value: "192.0.2.80", TTL: 300}, {Name: "www.example.com.", Type: "AAAA", Value: "2001:db8::80", TTL: 300},
		{Name: "example.com.", Type: "TXT", Value: `"v=spf1 mx -all"`, TTL: 3600},
	}
	for i, user := range []string{"printer-3", "ann", "camera-lobby"} {
		g.sessions = append(g.sessions, opsapi.RADIUSSession{
			Key: fmt.Sprintf("k%d", i+1), ID: fmt.Sprintf("5F0A%02X", i), Source: "192.0.2.9", NASIdentifier: "switch-1", NASPort: fmt.Sprint(i + 11), UserName: user,
			CallingStationID: fmt.Sprintf("aa:bb:cc:00:00:%02x", i), FramedIP: fmt.Sprintf("198.51.100.%d", i+30), VLAN: 100, Start: ago(time.Duration(i+1) * 47 * time.Minute), Updated: ago(40 * time.Second),
			DurationSeconds: int64(i+1) * 2820, InputOctets: 18_300_412 * uint64(i+1), OutputOctets: 220_044_180 * uint64(i+1),
		})
	}
	g.stats = dcrouter.Stats{
		Proxy: proxy.Stats{Connections: 18_220, Requests: 1_204_332, Refused: map[string]uint64{"tooManyPerIp": 41, "badTls": 212, "noRoute": 9},
			Routes: []proxy.RouteStats{
				{Name: "api-gateway", Active: 31, Requests: 900_120, Responses: [6]uint64{3, 0, 890_000, 1_200, 8_700, 217}, BytesIn: 1_840_220_118, BytesOut: 21_840_220_118, Blocked: 12},
				{Name: "static-assets", Active: 6, Requests: 304_212, Responses: [6]uint64{0, 0, 250_000, 54_000, 212, 0}, BytesIn: 84_220_118, BytesOut: 411_840_220_118},
				{Name: "database", Active: 4, Streams: 820, BytesIn: 4_220_118, BytesOut: 91_840_220},
			},
			Targets: []proxy.TargetStats{
				{Name: "192.0.2.20:8080", Healthy: true, Circuit: proxy.CircuitClosed, Active: 31, Total: 870_003, Failures: 12},
				{Name: "192.0.2.21:8080", Circuit: proxy.CircuitOpen, Ejections: 3, Total: 30_117, Failures: 1_440, LastError: "dial tcp 192.0.2.21:8080: connect: connection refused"},
				{Name: "192.0.2.40:5432", Healthy: true, Active: 4, Total: 820},
			}},
		DNS: &dnsserver.Stats{Transports: dnsserver.Transports{UDP: dnsserver.TransportStats{Queries: 88_120, Limited: 17}}, Rcodes: map[string]uint64{"NXDOMAIN": 412, "REFUSED": 3}},
		Email: &email.Stats{Messages: email.MessageStats{Accepted: 4_310}, Refused: map[string]uint64{"relay": 18, "reputation": 96, "early-talker": 7},
			Deliveries: email.DeliveryStats{Mailboxes: 3_900, Forwarded: 380}, Spool: email.SpoolStats{Messages: 4}, SignInFailures: 23},
		RADIUS: &radius.Stats{Requests: 6_004, Accepts: 2_940, Rejects: 38, Sessions: 3, Dropped: map[string]uint64{"unknownClient": 2}},
	}
	g.given, err = g.Current(context.Background())
	return g, err
}

// options give a Server all of the gateway.
func (g *gateway) options() []opsapi.Option {
	return []opsapi.Option{
		opsapi.WithVersion("1.4.0"), opsapi.WithStats(g.tick), opsapi.WithLimits(someLimits), opsapi.WithHealth(g.health), opsapi.WithConfiguration(g), opsapi.WithRoutesAt("smartProxyConfig", "routes"),
		opsapi.WithMailQueue(g), opsapi.WithSuppression(g), opsapi.WithMailDomains(g), opsapi.WithReputation(g), opsapi.WithDNS(g), opsapi.WithCertificates(g), opsapi.WithRADIUS(g), opsapi.WithBlocks(g),
	}
}

// tick is called once a second while somebody watches: something happens.
func (g *gateway) tick() any {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ticks++
	wave := 1 + 0.4*math.Sin(float64(g.ticks)/9) + 0.2*math.Sin(float64(g.ticks)/2.3)
	many := func(n float64) uint64 { return uint64(n * wave) }
	s := &g.stats
	s.Proxy.ActiveConnections, s.Proxy.UDPSessions = int(many(240)), int(many(12))
	s.Proxy.Requests += many(320)
	s.Proxy.Routes[0].BytesOut += many(6_400_000)
	s.Proxy.Routes[0].BytesIn += many(900_000)
	s.Proxy.Routes[0].Requests += many(250)
	s.Proxy.Routes[0].Responses[5] += many(1.2)
	s.DNS.Transports.UDP.Queries += many(84)
	s.DNS.Rcodes["NXDOMAIN"] += many(5)
	s.Email.Messages.Accepted += many(1.5)
	s.Email.Deliveries.Mailboxes += many(1.1)
	s.RADIUS.Accepts += many(0.9)
	s.RADIUS.Sessions = len(g.sessions)
	copied := *s
	copied.Proxy.Routes = slices.Clone(s.Proxy.Routes)
	data, err := json.Marshal(copied)
	if err != nil {
		return err.Error()
	}
	g.log.Info("request served", "component", "proxy", "conn_id", fmt.Sprintf("c-%d", g.ticks), "status", 200)
	return json.RawMessage(data)
}

func (g *gateway) health(context.Context) []opsapi.Component {
	return []opsapi.Component{
		{Name: "proxy", Ready: true, Addresses: []string{"0.0.0.0:443", "0.0.0.0:5432"}, Detail: "3 routes"}, {Name: "email", Ready: true, Addresses: []string{"0.0.0.0:25", "0.0.0.0:587"}},
		{Name: "dns", Ready: true, Addresses: []string{"0.0.0.0:53"}, Detail: "1 zone"}, {Name: "radius", Ready: true, Addresses: []string{"0.0.0.0:1812", "0.0.0.0:1813"}},
	}
}

func (g *gateway) note(format string, args ...any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.done = append(g.done, fmt.Sprintf(format, args...))
}

// asked returns what was asked for.
func (g *gateway) asked() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.done)
}

func (g *gateway) Given(context.Context) (json.RawMessage, error) { return g.given, nil }

func (g *gateway) Current(context.Context) (json.RawMessage, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return conf.Encode(g.config, true)
}

func (g *gateway) Parse(_ context.Context, doc, prev json.RawMessage) (json.RawMessage, error) {
	var c, before dcrouter.Config
	if err := errors.Join(conf.Decode(doc, &c), conf.Decode(prev, &before)); err != nil {
		return nil, err
	}
	if err := errors.Join(conf.KeepSecrets(&c, &before), c.Validate()); err != nil {
		return nil, err
	}
	return conf.Encode(c, true)
}

func (g *gateway) Redact(doc json.RawMessage) (json.RawMessage, error) {
	var c dcrouter.Config
	if err := conf.Decode(doc, &c); err != nil {
		return nil, err
	}
	return conf.Encode(c, false)
}

func (g *gateway) Apply(_ context.Context, doc json.RawMessage) error {
	var c dcrouter.Config
	if err := conf.Decode(doc, &c); err != nil {
		return err
	}
	g.note("apply port %d", c.Proxy.Routes[0].Action.Targets[0].Port)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.config = c
	return nil
}

func (g *gateway) Messages(_ context.Context, state string, p opsapi.Page) ([]opsapi.QueuedMessage, string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := []opsapi.QueuedMessage{}
	for _, m := range g.messages {
		if (state == "" || m.State == state) && strings.Contains(fmt.Sprint(m), p.Search) {
			list = append(list, m)
		}
	}
	return list, "", nil
}

func (g *gateway) Message(_ context.Context, id string) (opsapi.MessageDetail, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.IndexFunc(g.messages, func(m opsapi.QueuedMessage) bool { return m.ID == id })
	if i < 0 {
		return opsapi.MessageDetail{}, fmt.Errorf("message %q: %w", id, opsapi.ErrNotFound)
	}
	m := g.messages[i]
	return opsapi.MessageDetail{Message: &m, Headers: "From: <newsletter@example.com>\r\nTo: ann@example.net\r\nSubject: <b>News</b> of November\r\n", Timeline: []opsapi.MessageEvent{
		{Time: m.Arrived, Kind: "received", Host: "app-1.example.com", Text: "Received from 192.0.2.31 with ESMTPSA"},
		{Time: m.Arrived.Add(time.Second), Kind: "delivered", Recipient: "ann@example.net", Host: "mx.example.net", Text: "250 2.0.0 Ok: queued as 4F1C"},
		{Time: m.Arrived.Add(2 * time.Second), Kind: "deferred", Recipient: "bob@example.org", Host: "mx1.example.org", Text: "451 4.7.1 Greylisted, try again later"},
	}}, nil
}

// act does something with a message; it is gone if change is nil.
func (g *gateway) act(what, id string, change func(*opsapi.QueuedMessage)) error {
	g.note("%s %s", what, id)
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.IndexFunc(g.messages, func(m opsapi.QueuedMessage) bool { return m.ID == id })
	switch {
	case i < 0:
		return opsapi.ErrNotFound
	case change == nil:
		g.messages = slices.Delete(g.messages, i, i+1)
	default:
		change(&g.messages[i])
	}
	return nil
}

func (g *gateway) Retry(_ context.Context, id string) error {
	return g.act("retry", id, func(m *opsapi.QueuedMessage) { m.Tries++ })
}
func (g *gateway) Drop(_ context.Context, id string) error { return g.act("drop", id, nil) }
func (g *gateway) Release(_ context.Context, id string) error {
	return g.act("release", id, func(m *opsapi.QueuedMessage) { m.State, m.Reason = opsapi.StateQueued, "" })
}
func (g *gateway) Quarantine(_ context.Context, id, reason string) error {
	return g.act("quarantine", id, func(m *opsapi.QueuedMessage) { m.State, m.Reason = opsapi.StateQuarantine, reason })
}

func (g *gateway) Suppressed(context.Context, opsapi.Page) ([]opsapi.Suppressed, string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.blocked), "", nil
}

func (g *gateway) Suppress(_ context.Context, s opsapi.Suppressed) error {
	g.note("suppress %s", s.Address)
	g.mu.Lock()
	defer g.mu.Unlock()
	s.Since = time.Now()
	g.blocked = append(g.blocked, s)
	return nil
}

func (g *gateway) Unsuppress(_ context.Context, address string) error {
	g.note("unsuppress %s", address)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.blocked = slices.DeleteFunc(g.blocked, func(s opsapi.Suppressed) bool { return s.Address == address })
	return nil
}

func (g *gateway) Blocks(context.Context, opsapi.Page) ([]opsapi.Block, string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.refused), "", nil
}

func (g *gateway) AddBlock(_ context.Context, b opsapi.Block) error {
	g.note("block %s for %s", b.Address, b.Until.Sub(b.Since))
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refused = append(g.refused, b)
	return nil
}

func (g *gateway) RemoveBlock(_ context.Context, address string) error {
	g.note("lift %s", address)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refused = slices.DeleteFunc(g.refused, func(b opsapi.Block) bool { return b.Address == address })
	return nil
}

func (g *gateway) MailDomains(context.Context) ([]opsapi.MailDomain, error) {
	return []opsapi.MailDomain{{Domain: "example.com", Mode: "external-dns", Records: []opsapi.MailRecord{
		{Name: "example.com", Type: "MX", Value: "10 mail.example.com", State: "ok"},
		{Name: "example.com", Type: "TXT", Value: "v=spf1 mx -all", State: "differs", Found: []string{"v=spf1 ip4:192.0.2.1 ~all"}},
		{Name: "default._domainkey.example.com", Type: "TXT", Value: "v=DKIM1; k=rsa; p=" + strings.Repeat("MIIBIjANBgkqhkiG9w0BAQ", 17), State: "missing"},
		{Name: "_dmarc.example.com", Type: "TXT", Value: "v=DMARC1; p=quarantine", State: "unknown"},
	}}}, nil
}

func (g *gateway) CheckReputation(_ context.Context, address string) (opsapi.Reputation, error) {
	return opsapi.Reputation{Address: address, Blocked: true, Score: 0.87, Reason: "listed", Listings: []opsapi.Listing{{List: "zen.example.org", Detail: "known to send spam"}}}, nil
}

func (g *gateway) Zones(context.Context) ([]opsapi.Zone, error) {
	return []opsapi.Zone{{Name: "example.com.", Serial: 2026113001, Loaded: true, Names: 5, Signed: true}}, nil
}

func (g *gateway) Records(_ context.Context, _ string, p opsapi.Page) ([]opsapi.Record, string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(g.records), func(r opsapi.Record) bool { return !strings.Contains(fmt.Sprint(r), p.Search) }), "", nil
}

func (g *gateway) UpdateRecords(_ context.Context, c opsapi.RecordChanges) error {
	for i, r := range c.Add {
		if r.Type == "A" && strings.Contains(r.Value, ":") {
			return &opsapi.FieldError{Path: fmt.Sprintf("add[%d].value", i), Msg: fmt.Sprintf("%q is not an IPv4 address", r.Value)}
		}
	}
	g.note("records +%d -%d", len(c.Add), len(c.Remove))
	g.mu.Lock()
	defer g.mu.Unlock()
	g.records = slices.DeleteFunc(g.records, func(r opsapi.Record) bool { return slices.Contains(c.Remove, r) })
	g.records = append(g.records, c.Add...)
	return nil
}

func (g *gateway) Certificates(context.Context) ([]opsapi.Certificate, error) {
	now := time.Now().UTC()
	return []opsapi.Certificate{
		{Name: "api.example.com", Source: "acme", State: "valid", Issuer: "Let's Encrypt E7", NotBefore: now.AddDate(0, 0, -20), NotAfter: now.AddDate(0, 0, 70), Challenge: "dns-01"},
		{Name: "cdn.example.com", Source: "acme", State: "expiring", Issuer: "Let's Encrypt E7", NotBefore: now.AddDate(0, 0, -80), NotAfter: now.AddDate(0, 0, 9), Challenge: "http-01", Failures: 2, LastError: "the authority could not connect to 192.0.2.1:80", NextTry: now.Add(40 * time.Minute)},
		{Name: "mail.example.com", Source: "file", State: "valid", Issuer: "Example CA", NotAfter: now.AddDate(0, 7, 0)},
	}, nil
}

func (g *gateway) Renew(_ context.Context, name string) error {
	g.note("renew %s", name)
	return nil
}

func (g *gateway) Sessions(_ context.Context, p opsapi.Page) ([]opsapi.RADIUSSession, string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(g.sessions), func(s opsapi.RADIUSSession) bool { return !strings.Contains(fmt.Sprint(s), p.Search) }), "", nil
}

func (g *gateway) Clients(context.Context) ([]opsapi.RADIUSClient, error) {
	return []opsapi.RADIUSClient{{Name: "switch-1", Address: "192.0.2.9", Requests: 6_004, Accepts: 2_940, Rejects: 38, Dropped: 2, LastSeen: time.Now()}}, nil
}

func (g *gateway) Disconnect(_ context.Context, key string) error {
	g.note("disconnect %s", key)
	g.log.Warn("session disconnected", "component", "radius", "key", key)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sessions = slices.DeleteFunc(g.sessions, func(s opsapi.RADIUSSession) bool { return s.Key == key })
	return nil
}

// someLimits are one of each kind.
func someLimits() []opsapi.Limit {
	most, few, often := int64(970), int64(3), uint64(12)
	return []opsapi.Limit{
		{Name: "smartProxyConfig.maxConnections", Value: 1000, Unit: "connections", From: "limits", Used: &most, Reached: &often},
		{Name: "smartProxyConfig.timeouts.idle", Value: 3_600_000, Unit: "ms", From: "default"},
		{Name: "emailConfig.maxMessageSize", Value: 52_428_800, Unit: "bytes", From: "section"},
		{Name: "radiusConfig.accounting.maxSessions", Value: 2_000_000, Unit: "sessions", From: "default", Used: &few},
	}
}

package radius

import "sync/atomic"

// Stats is a snapshot of a Server's counters. They count from New on.
type Stats struct {
	// Requests is how many packets came from known clients.
	Requests uint64 `json:"requests"`
	// Accepts, Rejects and Challenges are the answers to Access-Requests,
	// those of home servers included.
	Accepts    uint64 `json:"accepts"`
	Rejects    uint64 `json:"rejects"`
	Challenges uint64 `json:"challenges"`
	// Accounting is how many accounting records were acknowledged.
	Accounting uint64 `json:"accounting"`
	// Status is how many Status-Server requests were answered.
	Status uint64 `json:"status"`
	// Duplicates is how many packets were repetitions, which got the answer of
	// the first.
	Duplicates uint64 `json:"duplicates"`
	// Proxied is how many requests went to home servers.
	Proxied uint64 `json:"proxied"`
	// Dropped counts packets that got no answer, by reason; and those that were
	// rejected without asking anyone (tooManyFailures, unreadablePassword).
	Dropped map[string]uint64 `json:"dropped"`
	// Sessions is how many accounting sessions are open.
	Sessions int `json:"sessions"`
	// RadSecConnections is how many are open.
	RadSecConnections int `json:"radSecConnections"`
	// Clients are in the order of the configuration.
	Clients []ClientStats `json:"clients"`
	// HomeServers are in the order of the configuration.
	HomeServers []HomeServerStats `json:"homeServers,omitempty"`
}

// ClientStats are the counters of one client.
type ClientStats struct {
	// Name and IP are as configured; both are "" where anyone who knows the
	// secret is a client.
	Name       string `json:"name"`
	IP         string `json:"ip"`
	Requests   uint64 `json:"requests"`
	Accepts    uint64 `json:"accepts"`
	Rejects    uint64 `json:"rejects"`
	Challenges uint64 `json:"challenges"`
	Accounting uint64 `json:"accounting"`
	Dropped    uint64 `json:"dropped"`
}

// HomeServerStats are the counters of one home server.
type HomeServerStats struct {
	Realm string `json:"realm"`
	// Address is host:port.
	Address string `json:"address"`
	// Alive is false while it does not answer.
	Alive    bool   `json:"alive"`
	Requests uint64 `json:"requests"`
	Failures uint64 `json:"failures"`
}

// reason is why a packet got no answer.
type reason int

const (
	unknownClient reason = iota
	malformed
	badSignature
	badAuthenticator
	unsigned
	proxyState
	unexpectedCode
	rateLimited
	overloaded
	authorizerFailed
	accountingFailed
	noHomeServer
	tooLarge
	tooManyFailures
	badPassword
	badRadSec
	radSecBusy
	reasons // how many there are
)

// String is the reason's name in Stats.
func (r reason) String() string {
	switch r {
	case unknownClient:
		return "unknownClient"
	case malformed:
		return "malformed"
	case badSignature:
		return "badMessageAuthenticator"
	case badAuthenticator:
		return "badAuthenticator"
	case unsigned:
		return "missingMessageAuthenticator"
	case proxyState:
		return "unsignedProxyState"
	case unexpectedCode:
		return "unexpectedCode"
	case rateLimited:
		return "rateLimited"
	case overloaded:
		return "overloaded"
	case authorizerFailed:
		return "authorizerFailed"
	case accountingFailed:
		return "accountingFailed"
	case noHomeServer:
		return "noHomeServer"
	case tooLarge:
		return "answerTooLarge"
	case tooManyFailures:
		return "tooManyFailures"
	case badPassword:
		return "unreadablePassword"
	case badRadSec:
		return "badRadSec"
	case radSecBusy:
		return "tooManyRadSecConnections"
	}
	return "unknown"
}

// explain is what the log says.
func (r reason) explain() string {
	switch r {
	case unknownClient:
		return "ignored a packet: its address is no client's"
	case malformed:
		return "ignored a packet: it is malformed"
	case badSignature:
		return "ignored a packet: its Message-Authenticator is wrong; is the secret the same?"
	case badAuthenticator:
		return "ignored a packet: its authenticator is wrong; is the secret the same?"
	case unsigned:
		return "ignored a request: it has no Message-Authenticator, which is required (CVE-2024-3596); for a client of many addresses a password will do if the secret is the same"
	case proxyState:
		return "ignored a request: it has Proxy-State but no Message-Authenticator (CVE-2024-3596)"
	case unexpectedCode:
		return "ignored a packet: its code does not belong here"
	case rateLimited:
		return "ignored a request: the client is over its rate limit"
	case overloaded:
		return "ignored a request: as many as maxConcurrent are under way"
	case authorizerFailed:
		return "ignored a request: the Authorizer failed"
	case accountingFailed:
		return "did not acknowledge a record: it could not be kept"
	case noHomeServer:
		return "ignored a request: no home server of its realm answered"
	case tooLarge:
		return "ignored a request: the answer to it is not possible"
	case tooManyFailures:
		return "rejected without asking: too many failures"
	case badPassword:
		return "rejected: the password is no text; is the secret the same?"
	case badRadSec:
		return "closed a RadSec connection"
	case radSecBusy:
		return "refused a RadSec connection: there are as many as maxConnections"
	}
	return "ignored a packet"
}

// counters are those of the Server as a whole.
type counters struct {
	requests, accepts, rejects, challenges, accounting, status, duplicates, proxied atomic.Uint64

	dropped [reasons]atomic.Uint64
}

// Stats returns a snapshot of the counters.
func (s *Server) Stats() Stats {
	c := &s.stats
	stats := Stats{
		Requests: c.requests.Load(), Accepts: c.accepts.Load(), Rejects: c.rejects.Load(), Challenges: c.challenges.Load(),
		Accounting: c.accounting.Load(), Status: c.status.Load(), Duplicates: c.duplicates.Load(), Proxied: c.proxied.Load(),
		Dropped:  make(map[string]uint64, reasons),
		Sessions: s.sessions.open(),
	}
	for r := range reasons {
		stats.Dropped[r.String()] = c.dropped[r].Load()
	}
	if r := s.latest(); r != nil {
		stats.RadSecConnections = r.radSecConnections()
	}
	for _, c := range s.clients.list {
		n := &c.stats
		stats.Clients = append(stats.Clients, ClientStats{Name: c.Name, IP: c.IP, Requests: n.requests.Load(), Accepts: n.accepts.Load(),
			Rejects: n.rejects.Load(), Challenges: n.challenges.Load(), Accounting: n.accounting.Load(), Dropped: n.dropped.Load()})
	}
	for _, realm := range s.realms {
		for _, h := range realm.servers {
			stats.HomeServers = append(stats.HomeServers, h.stats(realm.Name))
		}
	}
	return stats
}

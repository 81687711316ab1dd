package opsapi

import "github.com/dcrouter/dcrouter/internal/conf"

// Secret is a password or key: a string, written Secret("..."), that shows as ***
// wherever it is printed, logged or written as JSON. Its method Reveal() string
// gives the value.
type Secret = conf.Secret

// FieldError is a mistake in a configuration: the path of the field, such as
// "users[3].password", and what is wrong with it.
//
// Its fields are Path string, Msg string and Err error, the cause where there is
// one beyond the configuration itself, which Unwrap returns.
type FieldError = conf.FieldError

// Defaults of [Config].
const (
	DefaultListenHost = "127.0.0.1"
	DefaultPort       = 3000
)

// Config is everything about the operations API that can be written as JSON.
type Config struct {
	// ListenHost is the address that Port binds on. The default "" means
	// 127.0.0.1: unlike the other servers this one is for its own machine
	// unless told otherwise. "0.0.0.0" or "::" means all interfaces.
	ListenHost string `json:"listenHost"`
	// Port is the TCP port. The default nil means 3000; 0 binds any free port.
	Port *int `json:"port"`
	// Admin is who may sign in and do everything. Required.
	Admin Admin `json:"admin"`
	// Users are others who may sign in.
	Users []User `json:"users"`
	// TrustedProxies are addresses and CIDR blocks of proxies in front, whose
	// X-Forwarded-For header says who the client is. The default none means that
	// the header is not believed: then clients behind a proxy share the limits of
	// an address: of failed attempts to sign in, and a quarter of all connections
	// (256) and of the requests that are read at once.
	TrustedProxies []string `json:"trustedProxies"`
	// MetricsToken is what /metrics wants as "Authorization: Bearer" of who has not
	// signed in. The default "" means that only programs on this machine may read
	// it otherwise, by the name localhost or a loopback address, and not through a
	// proxy that says whom it is for. Behind a proxy that passes connections on as
	// they are, everybody seems to be on this machine: set it there.
	MetricsToken Secret `json:"metricsToken"`
}

// Admin is who may sign in and do everything.
type Admin struct {
	// Username is compared exactly. Required.
	Username string `json:"username"`
	// Password is the password itself or its argon2id hash ("$argon2id$...",
	// PHC string format). To compare with a hash takes the memory that it asks for,
	// for minutes: m=7168,t=5,p=1 is as good as more. Required.
	Password Secret `json:"password"`
}

// User is somebody else who may sign in.
type User struct {
	// Username is compared exactly. Required.
	Username string `json:"username" conf:"key"`
	// Password is as [Admin.Password]. Required.
	Password Secret `json:"password"`
	// Role is what the user may do: "viewer" sees everything but the audit log,
	// "operator" also changes routes, mail, DNS records and sessions, "admin" also
	// changes the configuration. Required.
	Role string `json:"role"`
}

package opsapi

import "github.com/dcrouter/dcrouter/internal/conf"

// Secret is a password. It prints as *** wherever it is shown; its Reveal
// method gives the value.
type Secret = conf.Secret

// FieldError is a mistake in a configuration, with the path of its field.
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
	// Admin is who may sign in. Required.
	Admin Admin `json:"admin"`
}

// Admin is who may sign in and do everything.
type Admin struct {
	// Username is compared exactly. Required.
	Username string `json:"username"`
	// Password is the password itself or its argon2id hash ("$argon2id$...",
	// PHC string format). Required.
	Password Secret `json:"password"`
}

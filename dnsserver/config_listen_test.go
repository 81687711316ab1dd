package dnsserver

import (
	"github.com/dcrouter/dcrouter/internal/conf/conftest"
	"testing"
	"time"
)

func TestListenConfig(t *testing.T) {
	tests := []conftest.Case{
		{"everything", `{"listenHost":"localhost","port":0,"listen":true,"dot":{"port":0},"doq":{"port":0},"doh":{"port":0},"idleTimeout":"3s","maxConnections":10,
			"maxConnectionsPerClient":2,"responseRateLimit":{"responsesPerSecond":5,"burst":10,"slip":-1}}`, ``},
		{"defaults", `{"dot":{},"doq":{},"doh":{},"responseRateLimit":{}}`, ``},
		{"mistakes", `{"listenHost":"x","port":-1,"dot":{"port":65536},"doq":{"port":-1},"doh":{"port":70000},"idleTimeout":-1,"maxConnections":-1,"maxConnectionsPerClient":-1,
			"responseRateLimit":{"responsesPerSecond":-1,"burst":-1,"slip":-2}}`, "listenHost: \"x\" is not an IP address\n" +
			"port: -1 is not a port (1-65535, or 0 for any free one)\ndot.port: 65536 is not a port (1-65535, or 0 for any free one)\n" +
			"doq.port: -1 is not a port (1-65535, or 0 for any free one)\ndoh.port: 70000 is not a port (1-65535, or 0 for any free one)\nidleTimeout: -1ms is negative\nmaxConnections: -1 is negative\n" +
			"maxConnectionsPerClient: -1 is negative\nresponseRateLimit.responsesPerSecond: -1 is not between 0 and 1000000\n" +
			"responseRateLimit.burst: -1 is not between 0 and 1000000\nresponseRateLimit.slip: -2 is not between -1 and 100"},
		{"one port for two", `{"port":853,"dot":{},"doq":{"port":853}}`, "dot.port: 853 is that of port already\ndoq.port: 853 is that of port already"},
		{"one port for TLS and HTTPS", `{"dot":{"port":443},"doh":{}}`, "doh.port: 443 is that of dot.port already"},
		{"on the default port", `{"dot":{"port":53}}`, "dot.port: 53 is that of port already"},
		{"one port, but not bound", `{"listen":false,"dot":{"port":53}}`, ``},
		{"slow rate", `{"responseRateLimit":{"responsesPerSecond":1,"burst":1000000}}`, ``},
	}
	conftest.Validate[Config](t, tests)
	var c Config
	if c.idleTimeout() != 10*time.Second || c.maxConnections() != 4096 || c.maxConnectionsPerClient() != 256 || !c.listens() {
		t.Error("defaults")
	}
}

package dnsc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"
)

// Dialer opens connections to servers; [net.Dialer] is one.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Config says which servers are asked, and how.
type Config struct {
	// Servers are the recursive resolvers to ask, in this order: "192.0.2.1",
	// "192.0.2.1:5353", "[2001:db8::1]:53". Without any it is those in
	// ResolvConf.
	Servers []string
	// ResolvConf is the file to take servers from; default /etc/resolv.conf. If
	// it does not exist, or names none, the server is this host, as in
	// resolv.conf(5). Its "options trust-ad" counts as TrustAD.
	ResolvConf string
	// TrustAD says that servers which are not on loopback validate too, and
	// that nobody can change what they answer on its way here. Without it their
	// answers are never secure. Those on loopback are always trusted: do not
	// give one that only hands on what others answer, AD bit and all.
	TrustAD bool
	// Timeout bounds one try at one server; default 3s.
	Timeout time.Duration
	// Rounds is how often a server that does not answer is tried; default 2.
	Rounds int
	// Dialer connects to servers, by "udp" and "tcp". Nil means a [net.Dialer].
	Dialer Dialer
}

// MaxServers bounds how many servers one question goes to.
const MaxServers = 8

// Resolver asks recursive resolvers. Make one with [New]. It is safe for
// concurrent use, and holds nothing that would have to be closed.
type Resolver struct {
	servers []server
	timeout time.Duration
	rounds  int
	dialer  Dialer
}

type server struct {
	addr    string
	trusted bool // its AD bit is believed
}

// New makes a Resolver. It reads cfg.ResolvConf if cfg has no servers, and asks
// nothing.
func New(cfg Config) (*Resolver, error) {
	r := &Resolver{timeout: cfg.Timeout, rounds: cfg.Rounds, dialer: cfg.Dialer}
	if r.timeout <= 0 {
		r.timeout = 3 * time.Second
	}
	if r.rounds <= 0 {
		r.rounds = 2
	}
	if r.dialer == nil {
		r.dialer = &net.Dialer{}
	}
	servers, trust := cfg.Servers, cfg.TrustAD
	if len(servers) == 0 {
		path := cfg.ResolvConf
		if path == "" {
			path = "/etc/resolv.conf"
		}
		var trustFile bool
		var err error
		if servers, trustFile, err = readResolvConf(path); err != nil {
			return nil, fmt.Errorf("the DNS servers cannot be read: %w", err)
		}
		trust = trust || trustFile
	}
	if len(servers) > MaxServers {
		return nil, fmt.Errorf("%d DNS servers are too many: give at most %d", len(servers), MaxServers)
	}
	var errs []error
	for _, s := range servers {
		addr, err := parseServer(s)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		r.servers = append(r.servers, server{addr.String(), trust || addr.Addr().Unmap().IsLoopback()})
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return r, nil
}

func parseServer(s string) (netip.AddrPort, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(addr, 53), nil
	}
	addr, err := netip.ParseAddrPort(s)
	if err != nil || addr.Port() == 0 {
		return addr, fmt.Errorf("the DNS server %q is neither an IP address nor address:port", s)
	}
	return addr, nil
}

// readResolvConf reads what matters here of resolv.conf(5). What is no address
// is passed over, as other resolvers do.
func readResolvConf(path string) (servers []string, trustAD bool, err error) {
	local := []string{"127.0.0.1"}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return local, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		switch fields := strings.Fields(lines.Text()); {
		case len(fields) < 2:
		case fields[0] == "nameserver":
			if _, err := netip.ParseAddr(fields[1]); err == nil && len(servers) < MaxServers {
				servers = append(servers, fields[1])
			}
		case fields[0] == "options":
			trustAD = trustAD || slices.Contains(fields[1:], "trust-ad")
		}
	}
	if len(servers) == 0 {
		servers = local
	}
	return servers, trustAD, lines.Err()
}

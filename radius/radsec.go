package radius

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/dcrouter/dcrouter/internal/certfile"
	"github.com/dcrouter/dcrouter/internal/conf"
)

const (
	radSecSecret = "radsec" // of all, RFC 6614 section 2.3

	radSecHandshake = 10 * time.Second
	radSecIdle      = 10 * time.Minute // clients come back when they need to
	radSecPacket    = 10 * time.Second // from the first octet of a packet to its last
	radSecWrite     = 10 * time.Second
)

// radsec is the port for RADIUS over TLS.
type radsec struct {
	r    *run
	ln   net.Listener
	tls  *tls.Config
	most int

	mu       sync.Mutex
	conns    map[net.Conn]netip.Addr
	perAddr  map[netip.Addr]int
	stopping bool
}

// listenRadSec reads the files and opens the port, or takes the listener that
// the host gave.
func (r *run) listenRadSec(ctx context.Context) (*radsec, error) {
	s := r.s
	cfg := s.cfg.RadSec
	config, err := s.radSecTLS(cfg)
	if err != nil {
		return nil, err
	}
	rs := &radsec{r: r, tls: config, most: valueOr(cfg.MaxConnections, 256), conns: make(map[net.Conn]netip.Addr), perAddr: make(map[netip.Addr]int)}
	addr := s.listenAddr(pointedOr(cfg.Port, DefaultRadSecPort))
	if rs.ln = s.opts.listeners[addr]; rs.ln == nil {
		var lc net.ListenConfig
		if rs.ln, err = s.opts.sockets.Listen(ctx, lc, "tcp", addr); err != nil {
			return nil, cannotListen(addr, err)
		}
	}
	return rs, nil
}

// Check reads the files that [RadSec] names, as Start would, and returns what is
// wrong with them.
func (s *Server) Check() error {
	if s.cfg.RadSec == nil {
		return nil
	}
	_, err := s.radSecTLS(s.cfg.RadSec)
	return err
}

func (s *Server) radSecTLS(cfg *RadSec) (*tls.Config, error) {
	c := &tls.Config{}
	if s.opts.tls != nil {
		c = s.opts.tls.Clone()
	}
	c.MinVersion = max(c.MinVersion, tls.VersionTLS12)
	switch {
	case cfg.Certificate.Auto:
		c.Certificates, c.GetCertificate = nil, s.opts.getCertificate
	case cfg.Certificate.CertPath != "":
		pair, err := certfile.Open(cfg.Certificate.CertPath, cfg.Certificate.KeyPath, s.log)
		if err != nil {
			return nil, conf.Prefix("radSec.certificate", err)
		}
		c.Certificates, c.GetCertificate = nil, pair.GetCertificate
	}
	if cfg.ClientCAPath != "" {
		pem, err := os.ReadFile(cfg.ClientCAPath)
		if err != nil {
			return nil, &FieldError{Path: "radSec.clientCaPath", Msg: err.Error(), Err: err}
		}
		c.ClientCAs = x509.NewCertPool()
		if !c.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, &FieldError{Path: "radSec.clientCaPath", Msg: cfg.ClientCAPath + " has no certificate"}
		}
		c.ClientAuth = tls.RequireAndVerifyClientCert
	}
	if c.ClientAuth == tls.NoClientCert && c.GetConfigForClient == nil {
		c.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return c, nil
}

// stop ends the taking of connections and packets; answers still go out.
func (rs *radsec) stop() {
	rs.ln.Close()
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.stopping = true
	for c := range rs.conns {
		c.SetReadDeadline(time.Unix(1, 0))
	}
}

func (rs *radsec) closeAll() {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for c := range rs.conns {
		c.Close()
	}
}

func (r *run) radSecConnections() int {
	if r.radsec == nil {
		return 0
	}
	r.radsec.mu.Lock()
	defer r.radsec.mu.Unlock()
	return len(r.radsec.conns)
}

// enter puts a connection on the books, if there is room. One address gets a
// quarter of it, or eight connections: who has no certificate must not keep all
// others out.
func (rs *radsec) enter(c net.Conn, from netip.Addr) (full, ok bool) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.stopping || len(rs.conns) >= rs.most || rs.perAddr[from] >= max(8, rs.most/4) {
		return !rs.stopping, false
	}
	rs.conns[c] = from
	rs.perAddr[from]++
	return false, true
}

func (rs *radsec) leave(c net.Conn) {
	rs.mu.Lock()
	from := rs.conns[c]
	if rs.perAddr[from]--; rs.perAddr[from] == 0 {
		delete(rs.perAddr, from)
	}
	delete(rs.conns, c)
	rs.mu.Unlock()
	c.Close()
}

func (r *run) acceptRadSec() {
	rs := r.radsec
	for pause := time.Duration(0); ; {
		c, err := rs.ln.Accept()
		if err != nil {
			if r.isStopping(err) {
				if r.stopping.Load() == 0 {
					r.fail(err)
				}
				return
			}
			pause = min(2*pause+time.Millisecond, time.Second)
			select {
			case <-time.After(pause): // no descriptors, most likely
			case <-r.quit:
				return
			}
			continue
		}
		pause = 0
		var from netip.AddrPort
		if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
			from = a.AddrPort()
		} else {
			from, _ = netip.ParseAddrPort(c.RemoteAddr().String())
		}
		from = netip.AddrPortFrom(from.Addr().Unmap().WithZone(""), from.Port())
		client := r.s.clients.find(from.Addr())
		if client == nil {
			r.s.drop(dropped{from: from, why: unknownClient, radSec: true})
			c.Close()
			continue
		}
		full, ok := rs.enter(c, from.Addr())
		if !ok {
			if full {
				r.s.drop(dropped{from: from, client: client, why: radSecBusy, radSec: true})
			}
			c.Close()
			continue
		}
		r.reading.Go(func() {
			defer rs.leave(c)
			conn := &radSecConn{rs: rs, raw: c, from: from, client: client, logins: newBacklog(), records: newBacklog(), waiting: make(map[places][]func(bool))}
			if err := conn.serve(); err != nil && r.stopping.Load() == 0 {
				r.s.drop(dropped{from: from, client: client, why: badRadSec, err: err, radSec: true})
			}
		})
	}
}

// radSecConn is a connection of a client.
type radSecConn struct {
	rs     *radsec
	raw    net.Conn
	tls    *tls.Conn
	from   netip.AddrPort
	client *client

	ctx     context.Context // ends when nobody waits for answers any more
	working sync.WaitGroup  // who is at requests
	writing sync.Mutex

	logins, records *backlog
	waitingMu       sync.Mutex
	waiting         map[places][]func(entered bool) // to start; a key has a takeTurns
}

// serve takes packets until the client closes, is silent for long, or sends
// what is none. A stream that has lost its packets' boundaries is of no use, so
// any mistake ends it (RFC 6614 section 2.6 and 3.4).
func (c *radSecConn) serve() error {
	c.tls = tls.Server(c.raw, c.rs.tls)
	ctx, cancel := context.WithTimeout(c.rs.r.ctx, radSecHandshake)
	defer cancel()
	if err := c.tls.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	if err := c.checkName(); err != nil {
		return err
	}
	var gone context.CancelFunc
	c.ctx, gone = context.WithCancel(c.rs.r.ctx)
	defer gone()
	defer func() {
		if c.rs.r.stopping.Load() == 0 {
			gone()
		}
		c.working.Wait() // answers need the connection
	}()
	b := make([]byte, maxPacket)
	for {
		if !c.deadline(radSecIdle) {
			return nil
		}
		if _, err := io.ReadFull(c.tls, b[:1]); err != nil {
			var timeout net.Error
			if errors.Is(err, io.EOF) || errors.As(err, &timeout) && timeout.Timeout() {
				return nil
			}
			return err
		}
		if !c.deadline(radSecPacket) {
			return nil
		}
		if _, err := io.ReadFull(c.tls, b[1:headerLength]); err != nil {
			return err
		}
		n := int(binary.BigEndian.Uint16(b[2:]))
		if n < headerLength || n > maxPacket {
			return fmt.Errorf("a packet of %d octets", n)
		}
		if _, err := io.ReadFull(c.tls, b[headerLength:n]); err != nil {
			return err
		}
		in := arrival{from: c.from, client: c.client, secret: []byte(radSecSecret), service: authService | acctService, at: time.Now(), conn: c, out: c}
		if !c.rs.r.take(&in, b[:n]) {
			return nil
		}
	}
}

// deadline sets how long the next read may take. It reports false at Stop.
func (c *radSecConn) deadline(d time.Duration) bool {
	c.rs.mu.Lock()
	defer c.rs.mu.Unlock()
	if c.rs.stopping {
		return false
	}
	c.raw.SetReadDeadline(time.Now().Add(d))
	return true
}

// checkName looks for one of the names that the client's certificate must have.
func (c *radSecConn) checkName() error {
	names := c.client.CertificateNames
	if len(names) == 0 {
		return nil
	}
	certs := c.tls.ConnectionState().PeerCertificates
	if len(certs) == 0 {
		return errors.New("the client has no certificate")
	}
	for _, name := range names {
		if certs[0].VerifyHostname(name) == nil {
			return nil
		}
	}
	return fmt.Errorf("the client's certificate is for none of %q", names)
}

// send answers. A client that does not read is cut off.
func (c *radSecConn) send(d datagram, in *arrival) {
	c.writing.Lock()
	defer c.writing.Unlock()
	in.leave() // with the answer the client has its identifier again
	c.raw.SetWriteDeadline(time.Now().Add(radSecWrite))
	if _, err := c.tls.Write(d); err != nil {
		c.raw.Close()
	}
}

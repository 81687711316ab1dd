package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/pires/go-proxyproto"
)

var (
	errHeadTooLong = errors.New("too many bytes before the connection could be routed")
	errNoRoute     = errors.New("no route takes this connection")
	errNoStream    = errors.New("no route takes what is not HTTP: on a port with routes for HTTP alone it needs protocol tcp")
)

// maxHead is how much is read to find a route: the largest ClientHello, in the
// smallest records it may reasonably come in.
const maxHead = 2 * maxHello

// serve finds out where a connection wants to go and takes it there. One
// deadline holds from accept until its route is known. The routes may change
// while the client makes up its mind, so they are asked for anew each time
// something has been learned.
func (r *run) serve(c *conn) {
	routeBy := deadline(r.times.Route)
	if c.proxied {
		c.SetDeadline(routeBy)
		if !r.learnClient(c) {
			return
		}
	}
	t, p := r.routes(c)
	q := query{client: c.client.Addr()}
	if p.direct {
		r.streamPlain(c, t, p, &q)
		return
	}

	c.SetDeadline(routeBy)
	kind, err := c.sniff()
	t, p = r.routes(c)
	switch {
	case err != nil && isTimeout(err) && p.plain.find(&q, opaqueTraffic) != nil:
		// Silence may mean that the server is to speak first. It may also mean
		// that the client waits to speak HTTP where nobody looks any more, so
		// only a route that never looks will do.
		r.stream(c, c.Conn, c.takeHead(), t, p.plain.find(&q, opaqueTraffic))
	case err != nil:
		r.reject(c, &r.p.stats.silent, err)
	case kind == looksTLS && p.hasTLS:
		r.serveTLS(c)
	case kind == looksHTTP && p.plainHTTP:
		r.http(c)
	case kind == looksHTTP && p.hasTLS && p.plain.find(&q, streamTraffic) == nil:
		// What net/http says in this case.
		io.WriteString(c.Conn, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
		r.reject(c, &r.p.stats.noRoute, errNoRoute)
	default:
		r.streamPlain(c, t, p, &q)
	}
}

// learnClient reads the PROXY header, from which on the connection is the
// client's, with all limits. It reports whether the connection may go on.
func (r *run) learnClient(c *conn) bool {
	if err := c.readProxyHeader(); err != nil {
		reason := &r.p.stats.badProxyHeader
		if len(c.head) == 0 && !isTimeout(err) {
			reason = &r.p.stats.silent // load balancers look so whether we are there
		}
		r.reject(c, reason, err)
		return false
	}
	if r.isBlocked(c.client.Addr(), c.port) {
		r.reject(c, &r.p.stats.blockedAddress, errBlockedAddress)
		return false
	}
	r.mu.Lock()
	_, open := r.conns[c] // once closed, nobody would count it out again
	c.counted = open && r.countIP(r.perIP, c.client.Addr())
	counted := c.counted
	r.mu.Unlock()
	if open && !counted {
		r.reject(c, &r.p.stats.tooManyPerIP, errLimit)
	}
	return counted
}

// routes returns the table and those of its routes that belong to the
// connection's port, of which there may be none any more.
func (r *run) routes(c *conn) (*table, *portRoutes) {
	t := r.table.Load()
	if p := t.ports[c.port]; p != nil {
		return t, p
	}
	return t, &portRoutes{direct: true}
}

// streamPlain takes a stream without TLS to the route for it.
func (r *run) streamPlain(c *conn, t *table, p *portRoutes, q *query) {
	rt := p.plain.find(q, streamTraffic)
	if rt == nil {
		err := errNoRoute
		if p.plain.strict {
			err = errNoStream
		}
		r.reject(c, &r.p.stats.noRoute, err)
		return
	}
	r.stream(c, c.Conn, c.takeHead(), t, rt)
}

// serveTLS routes by the ClientHello and terminates TLS if the route does.
func (r *run) serveTLS(c *conn) {
	hello, err := c.readHello()
	if err != nil {
		r.reject(c, &r.p.stats.badTLS, err)
		return
	}
	host, ok := canonicalHost(hello.serverName)
	if !ok {
		r.rejectName(c, &r.p.stats.badTLS)
		return
	}
	c.serverName = host
	if r.isTLSChallenge(hello) && r.answersTLSChallenge(c) {
		return
	}
	q := &query{client: c.client.Addr(), host: host}
	t, p := r.routes(c)
	if rt := p.hello.find(q, anyTraffic); rt != nil && !rt.terminatesTLS() {
		r.stream(c, c.Conn, c.takeHead(), t, rt)
		return
	}

	chosen, ok := p.termination(q)
	var config *tls.Config
	switch {
	case hello.encrypted && r.p.opts.echKeys != nil:
		config = r.echConfig(c, p, q, hello, &chosen)
	case ok:
		config = chosen.config(hello.protocols)
	default:
		r.rejectName(c, &r.p.stats.unknownName)
		return
	}
	tc := tls.Server(c, config)
	ctx, cancel := r.routeContext()
	err = tc.HandshakeContext(ctx)
	cancel()
	if err != nil {
		reason := &r.p.stats.badTLS
		if errors.Is(err, errUnknownName) {
			reason = &r.p.stats.unknownName
		}
		r.reject(c, reason, err)
		return
	}
	state := tc.ConnectionState()
	c.policy, c.tls = chosen.route.policy, &state

	var head []byte
	http := !chosen.streams || state.NegotiatedProtocol != ""
	traffic := streamTraffic
	if !http && chosen.http {
		var kind looks
		head, kind, err = sniff(tc)
		switch {
		case err != nil && !isTimeout(err):
			r.reject(c, &r.p.stats.silent, err)
			return
		case err != nil:
			traffic = opaqueTraffic // as without TLS
		default:
			http = kind == looksHTTP
		}
	}
	if http {
		c.altSvc = r.altSvc(c.port)
		r.httpTLS(c, tc, head)
		return
	}
	t, p = r.routes(c)
	rt := p.terminated.find(q, traffic)
	if rt == nil || rt.policy != c.policy {
		r.reject(c, &r.p.stats.noRoute, errNoRoute)
		return
	}
	r.stream(c, tc, head, t, rt)
}

// routeContext bounds the TLS handshake by context too, beside the connection's
// deadline, for code of the host that runs in it.
func (r *run) routeContext() (context.Context, context.CancelFunc) {
	if r.times.Route <= 0 {
		return context.WithCancel(r.ctx)
	}
	return context.WithTimeout(r.ctx, r.times.Route)
}

// reject closes a connection that went nowhere and counts why. Strangers cause
// these, so they are logged at debug level only and not without limit.
func (r *run) reject(c *conn, reason *rejection, err error) {
	r.count(c, reason, err)
	c.Close()
}

// rejectName rejects a connection for its server name, and says so. It counts
// before the client can know.
func (r *run) rejectName(c *conn, reason *rejection) {
	r.count(c, reason, errUnknownName)
	c.Conn.Write(unrecognizedName())
	c.Close()
}

// count counts and logs why a connection went nowhere.
func (r *run) count(c *conn, reason *rejection, err error) {
	reason.count.Add(1)
	if r.log.Enabled(r.ctx, slog.LevelDebug) {
		if skipped, ok := reason.mayLog(time.Now()); ok {
			r.log.Debug("connection refused", "conn_id", c.name(), "remote", c.client, "port", c.port,
				"reason", reason.name, "err", err, "not_logged", skipped)
		}
	}
	// Heads that end half-way or are too long are accidents more often: networks
	// fail, and browsers collect cookies.
	if r.p.opts.observe != nil && err != errBadRequest {
		r.report(c, reason, nil, nil, err.Error())
	}
}

// takeHead returns what has been read ahead; the connection forgets it.
func (c *conn) takeHead() []byte {
	head := c.head
	c.head = nil
	return head
}

// What the first bytes of a stream look like.
type looks int

const (
	looksOther looks = iota
	looksTLS
	looksHTTP
)

// sniff reads until it is clear what the connection speaks.
func (c *conn) sniff() (looks, error) {
	for {
		kind, sure := look(c.head)
		if sure {
			return kind, nil
		}
		if err := c.fill(maxSniff); err != nil {
			if err == io.EOF && len(c.head) > 0 {
				return lookAtAll(c.head), nil
			}
			return 0, err
		}
	}
}

// sniff does the same on a stream that has no place to keep what was read.
func sniff(c net.Conn) (head []byte, kind looks, err error) {
	buf := make([]byte, 4096)
	for {
		kind, sure := look(head)
		if sure {
			return head, kind, nil
		}
		if len(head) >= maxSniff {
			return head, 0, errHeadTooLong
		}
		n, err := c.Read(buf)
		head = append(head, buf[:n]...)
		if n == 0 && err != nil {
			if err == io.EOF && len(head) > 0 {
				return head, lookAtAll(head), nil
			}
			return head, 0, err
		}
	}
}

// lookAtAll is look for a stream that has ended: some take that for the end of a
// line.
func lookAtAll(b []byte) looks {
	kind, _ := look(append(bytes.Clone(b), '\n'))
	return kind
}

// look tells what a stream that begins with b is, and whether that is sure,
// whatever follows.
//
// What may carry HTTP must not slip by as an ordinary stream, past every check
// that HTTP routes make, only because it is HTTP that net/http would refuse and
// a lenient target would not. So a first line counts as HTTP
//
//   - that has a word and then a path, a URI, or somewhere "HTTP/", whatever the
//     case and the white space: there are servers that take another version, such
//     as RTSP/1.0, or any word, for one of HTTP,
//   - that is GET and one word, all there is to a request of HTTP/0.9,
//   - whose end does not come within maxRequestLine: it may hold what a target
//     that reads further takes for one of these,
//   - that begins a header of the PROXY protocol, which nobody may send here who
//     is not trusted to: a target that takes such headers would read a request
//     behind it.
//
// net/http decides then.
func look(b []byte) (kind looks, sure bool) {
	if len(b) > 0 && b[0] == recordTypeHandshake {
		if len(b) == 1 {
			return 0, false
		}
		if b[1] == 3 {
			return looksTLS, true
		}
	}
	if begin := b[:min(len(b), len(proxyproto.SIGV2))]; bytes.HasPrefix(proxyproto.SIGV2, begin) {
		if len(begin) < len(proxyproto.SIGV2) {
			return looksOther, false
		}
		return looksHTTP, true
	}
	for len(b) > 0 && (b[0] == '\n' || isBlank(b[0])) {
		b = b[1:]
	}
	line, _, ended := bytes.Cut(b, []byte("\n"))
	long := len(line) > maxRequestLine
	method := until(line, func(c byte) bool { return !isToken(c) })
	rest := line[len(method):]
	target := rest[len(until(rest, func(c byte) bool { return !isBlank(c) })):]
	switch {
	case len(rest) == 0 && long:
		return looksHTTP, true
	case len(rest) == 0:
		return looksOther, ended
	case len(method) == 0 || len(target) == len(rest):
		return looksOther, true
	case string(method) == string(proxyproto.SIGV1):
		return looksHTTP, true
	case len(target) > 0 && (target[0] == '/' || target[0] == '*'), beginsURI(target):
		return looksHTTP, true
	case len(target) > 0 && target[0] < ' ' && !bytes.ContainsFunc(method, isLetter):
		// LDAP: tag and length of a message, tag of its number. No server has a
		// method without letters that it would do something for.
		return looksOther, true
	case containsHTTP(target), ended && string(method) == "GET" && isWord(target), long:
		return looksHTTP, true
	}
	return looksOther, ended
}

// beginsURI reports whether there is a scheme, and then a path or an authority
// (RFC 3986 section 3).
func beginsURI(b []byte) bool {
	scheme := until(b, func(c byte) bool { return !isToken(c) })
	return len(scheme) > 0 && bytes.HasPrefix(b[len(scheme):], []byte(":/"))
}

// isWord reports whether there is one word only, and perhaps blanks behind it.
func isWord(b []byte) bool {
	word := until(b, isBlank)
	return len(word) > 0 && len(until(b[len(word):], func(c byte) bool { return !isBlank(c) })) == len(b)-len(word)
}

// until returns the beginning of b before the first byte that stop takes.
func until(b []byte, stop func(byte) bool) []byte {
	for i, c := range b {
		if stop(c) {
			return b[:i]
		}
	}
	return b
}

// isBlank knows all that some server takes for white space in a line: more than
// RFC 9112 section 3 lists, as the libraries of some languages do.
func isBlank(c byte) bool {
	return strings.IndexByte(" \t\v\f\r\x1c\x1d\x1e\x1f\x85\xa0", c) >= 0
}

// maxRequestLine is how much of a line is waited for to see what it is.
const maxRequestLine = 4 << 10

// maxSniff bounds what is read before it is clear what a stream is; white
// space in front of a line counts too.
const maxSniff = 2 * maxRequestLine

// isToken knows the characters of a method, RFC 9110 section 5.6.2.
func isToken(c byte) bool {
	switch {
	case 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		return true
	}
	return strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

func isLetter(r rune) bool {
	return 'A' <= r && r <= 'Z' || 'a' <= r && r <= 'z'
}

func containsHTTP(b []byte) bool {
	return bytes.Contains(bytes.ToUpper(b), []byte("HTTP/"))
}

// readHello reads until the ClientHello is complete.
func (c *conn) readHello() (*clientHello, error) {
	var h helloReader
	for {
		done, err := h.read(c.head)
		if err != nil {
			return nil, err
		}
		if done {
			return h.parse()
		}
		if err := c.fill(maxHead); err != nil {
			return nil, err
		}
	}
}

func isTimeout(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}

package proxy

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// protocolField is the field of a request's header that says what protocol the
// stream is for, if the client opened it with an extended CONNECT (RFC 8441).
// It is net/http's name; no client can send a field of this name.
const protocolField = ":protocol"

// streamUpgrade makes of a WebSocket on a stream what targets and handlers know:
// a GET that asks to upgrade its connection. Who answers 101 gets the stream for
// a connection.
type streamUpgrade struct {
	http.ResponseWriter // of the stream
	req                 *http.Request
	conn                *streamConn // nil until hijacked
	body                io.ReadCloser
	c                   *conn
	key                 string // that the answer must prove to have seen

	mu   sync.Mutex
	over bool // the stream is not ours any more
}

func newStreamUpgrade(w http.ResponseWriter, req *http.Request, c *conn) *streamUpgrade {
	var nonce [16]byte
	rand.Read(nonce[:])
	u := &streamUpgrade{ResponseWriter: w, body: req.Body, c: c, key: base64.StdEncoding.EncodeToString(nonce[:])}
	u.req = req.WithContext(req.Context())
	u.req.Method = http.MethodGet
	u.req.Body, u.req.ContentLength, u.req.Trailer = http.NoBody, 0, nil
	u.req.Header = req.Header.Clone()
	delete(u.req.Header, protocolField)
	u.req.Header.Set("Connection", "Upgrade")
	u.req.Header.Set("Upgrade", "websocket")
	u.req.Header.Set("Sec-Websocket-Key", u.key)
	if u.req.Header.Get("Sec-Websocket-Version") == "" {
		u.req.Header.Set("Sec-Websocket-Version", "13")
	}
	return u
}

// withoutUpgrade is the status to answer with if protocols are not changed. To an
// extended CONNECT any 2xx would say that they are.
func (u *streamUpgrade) withoutUpgrade(status int) int {
	if status >= 200 && status <= 299 {
		return http.StatusBadGateway
	}
	return status
}

// Unwrap gives http.ResponseController the stream's abilities.
func (u *streamUpgrade) Unwrap() http.ResponseWriter { return u.ResponseWriter }

// Hijack hands the stream out.
func (u *streamUpgrade) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if u.conn != nil {
		return nil, nil, http.ErrHijacked
	}
	u.conn = &streamConn{u: u, closed: make(chan struct{})}
	return u.conn, bufio.NewReadWriter(bufio.NewReader(u.conn), bufio.NewWriter(u.conn)), nil
}

// reset ends the stream at once.
func (u *streamUpgrade) reset() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.over {
		http.NewResponseController(u.ResponseWriter).SetWriteDeadline(time.Unix(1, 0))
	}
}

// wait waits until a stream that has been handed out is closed: as with other
// connections that may be after the handler has returned, but net/http ends the
// stream then.
func (u *streamUpgrade) wait() {
	if u.conn != nil {
		select {
		case <-u.conn.closed:
		case <-u.req.Context().Done():
		}
	}
}

// end is called when the stream goes back to net/http.
func (u *streamUpgrade) end() {
	if u.conn != nil {
		u.conn.Close()
		u.conn.writing.Lock() // waits for the last Write
		defer u.conn.writing.Unlock()
	}
	u.mu.Lock()
	u.over = true
	u.mu.Unlock()
}

// streamConn is a stream that passes for the connection it was asked to be
// upgraded on. The head that is written to it becomes that of the stream's
// response, what follows goes out as it is.
type streamConn struct {
	u       *streamUpgrade
	writing sync.Mutex
	head    []byte // as far as it has been written
	begun   bool   // the head is complete
	refused bool   // it says that there is no change of protocols
	closed  chan struct{}
	once    sync.Once
}

var errUpgradeHead = errors.New("the head that switches protocols is malformed, too long or has a wrong Sec-WebSocket-Accept")

// Read reads what the client sends.
func (s *streamConn) Read(b []byte) (int, error) { return s.u.body.Read(b) }

// Write sends b to the client, at once.
func (s *streamConn) Write(b []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	select {
	case <-s.closed:
		return 0, net.ErrClosed
	default:
	}
	rest := b
	if !s.begun {
		s.head = append(s.head, b...)
		i := bytes.Index(s.head, []byte("\r\n\r\n"))
		switch {
		case i >= 0:
			head := s.head[:i+4]
			rest = s.head[i+4:]
			s.head, s.begun = nil, true
			if err := s.respond(head); err != nil {
				return 0, err
			}
		case len(s.head) > maxResponseHead:
			return 0, errUpgradeHead
		default:
			return len(b), nil
		}
	}
	if s.refused {
		return len(b), nil
	}
	if len(rest) > 0 {
		if _, err := s.u.ResponseWriter.Write(rest); err != nil {
			return 0, err
		}
	}
	if err := http.NewResponseController(s.u.ResponseWriter).Flush(); err != nil {
		return 0, err
	}
	return len(b), nil
}

// respond begins the response that head, of HTTP/1.1, asks for.
func (s *streamConn) respond(head []byte) error {
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), nil)
	if err != nil {
		return errUpgradeHead
	}
	status := http.StatusOK
	if resp.StatusCode != http.StatusSwitchingProtocols {
		s.refused, status = true, s.u.withoutUpgrade(resp.StatusCode)
	} else if resp.Header.Get("Sec-Websocket-Accept") != acceptKey(s.u.key) {
		s.u.ResponseWriter.WriteHeader(http.StatusBadGateway)
		return errUpgradeHead
	}
	h := s.u.ResponseWriter.Header()
	clear(h)
	for name, values := range resp.Header {
		if !hopByHop(name) && name != "Content-Length" && name != "Sec-Websocket-Accept" {
			h[name] = values
		}
	}
	s.u.ResponseWriter.WriteHeader(status)
	return nil
}

// acceptKey is the answer to a Sec-WebSocket-Key, RFC 6455 section 4.2.2.
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// Close ends the stream: in good order, or with a reset if something still
// waits to be sent.
func (s *streamConn) Close() error {
	s.once.Do(func() {
		close(s.closed)
		if !s.writing.TryLock() {
			s.u.reset()
		} else {
			s.writing.Unlock()
		}
		s.u.body.Close()
	})
	return nil
}

// LocalAddr and RemoteAddr are those of the connection below.
func (s *streamConn) LocalAddr() net.Addr  { return s.u.c.LocalAddr() }
func (s *streamConn) RemoteAddr() net.Addr { return s.u.c.RemoteAddr() }

// SetDeadline sets both deadlines. One that has passed ends the stream.
func (s *streamConn) SetDeadline(by time.Time) error {
	return errors.Join(s.SetReadDeadline(by), s.SetWriteDeadline(by))
}

// SetReadDeadline sets the deadline for reading.
func (s *streamConn) SetReadDeadline(by time.Time) error {
	return s.control(func(rc *http.ResponseController) error { return rc.SetReadDeadline(by) })
}

// SetWriteDeadline sets the deadline for writing.
func (s *streamConn) SetWriteDeadline(by time.Time) error {
	return s.control(func(rc *http.ResponseController) error { return rc.SetWriteDeadline(by) })
}

// control does something to the stream if it is still there.
func (s *streamConn) control(do func(*http.ResponseController) error) error {
	s.u.mu.Lock()
	defer s.u.mu.Unlock()
	select {
	case <-s.closed:
		return net.ErrClosed
	default:
		return do(http.NewResponseController(s.u.ResponseWriter))
	}
}

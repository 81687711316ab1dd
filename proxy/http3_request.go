package proxy

import (
	"io"
	"net/http"
	"time"

	"github.com/dcrouter/dcrouter/proxy/internal/h1"
)

// serveHTTP serves a request as serveHTTP of the run does, after what net/http
// would have done to it.
func (c *quicConn) serveHTTP(w http.ResponseWriter, req *http.Request) {
	c.begin()
	defer c.end()
	out := &http3Writer{ResponseWriter: w, conn: c}
	req.TLS = c.conn.tls
	if version := "HTTP/3.0"; req.Method == http.MethodConnect && req.Proto != version {
		// An extended CONNECT (RFC 9220), as net/http has those of HTTP/2.
		req.Header[protocolField], req.Proto = []string{req.Proto}, version
		out.untyped = true
	}
	c.prepareBody(w, req)
	c.conn.run.serveHTTP(out, req)
	if req.Method == http.MethodHead && !out.started {
		// It would say that there is no content, and nothing is known of that.
		http.NewResponseController(w).Flush()
	}
}

// prepareBody finds requests without a body, for which others are sent to
// targets and repeated, and brings trailers to where net/http has them.
func (c *quicConn) prepareBody(w http.ResponseWriter, req *http.Request) {
	switch {
	case req.ContentLength < 0 && idempotent(req.Method):
		// That there is none, only the end of the stream tells. It mostly comes
		// with the head.
		var first [1]byte
		control := http.NewResponseController(w)
		control.SetReadDeadline(deadline(c.conn.run.times.RequestHead))
		n, err := io.ReadFull(req.Body, first[:])
		control.SetReadDeadline(time.Time{})
		switch err {
		case nil:
			req.Body = &http3Body{ReadCloser: req.Body, head: first[:n]}
		case io.EOF:
			req.Body, req.ContentLength = http.NoBody, 0
		default:
			panic(http.ErrAbortHandler) // not only this part of the head is missing
		}
	case req.ContentLength == 0:
		req.Body = http.NoBody
	}
	if req.Body != http.NoBody && len(req.Trailer) > 0 {
		req.Body = &http3Body{ReadCloser: req.Body, req: req, announced: req.Trailer}
	}
}

// http3Body is the body of a request, with what net/http would do to it.
type http3Body struct {
	io.ReadCloser
	head []byte // read already

	req       *http.Request
	announced http.Header // where others look for trailers
}

// Read reads a part of the body.
func (b *http3Body) Read(p []byte) (int, error) {
	if len(b.head) > 0 {
		n := copy(p, b.head)
		b.head = b.head[n:]
		return n, nil
	}
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF && b.req != nil {
		for name := range b.announced {
			b.announced[name] = b.req.Trailer[name]
		}
	}
	return n, err
}

// http3Writer does to a response what net/http would do.
type http3Writer struct {
	http.ResponseWriter
	conn    *quicConn
	started bool
	untyped bool // what is written is no content
}

// WriteHeader sends the head of the response, without what belongs to
// connections of HTTP/1.1 (RFC 9114 section 4.2). "Connection: close" asks the
// client to leave, as it does in HTTP/2.
func (w *http3Writer) WriteHeader(status int) {
	h := w.Header()
	if connection := h["Connection"]; len(connection) > 0 {
		for _, value := range connection {
			if h1.HasToken(value, "close") {
				w.conn.retire()
			}
		}
	}
	for _, name := range []string{"Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Upgrade"} {
		delete(h, name)
	}
	if _, ok := h["Content-Type"]; !ok && w.untyped {
		h["Content-Type"] = nil
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write sends a part of the body.
func (w *http3Writer) Write(b []byte) (int, error) {
	if !w.started && len(b) > 0 {
		w.started = true
		h := w.Header()
		if _, ok := h["Content-Type"]; !ok && h.Get("Content-Encoding") == "" {
			h.Set("Content-Type", http.DetectContentType(b))
		}
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap gives http.ResponseController the rest of the stream's abilities.
func (w *http3Writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

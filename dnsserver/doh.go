package dnsserver

import (
	"encoding/base64"
	"errors"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Media types of RFC 8484 section 6, and of the JSON form.
const (
	wireType = "application/dns-message"
	jsonType = "application/dns-json"
)

// maxEncodedQuery is how long the longest message is in base64url.
const maxEncodedQuery = (maxMessage*8 + 5) / 6

// httpError is a request that gets a status instead of a message.
type httpError struct {
	status int
	text   string
}

func (e *httpError) Error() string { return e.text }

// httpProblem is what a client is told of an error.
func httpProblem(err error) *httpError {
	problem := &httpError{http.StatusInternalServerError, "internal error"}
	errors.As(err, &problem)
	return problem
}

// ServeHTTP answers DNS over HTTPS, on any server and at any path:
//
//   - messages by RFC 8484, as the body of a POST or as ?dns= of a GET, the
//     custom at /dns-query;
//   - JSON in the form of Google and Cloudflare at /resolve, and elsewhere for
//     a GET with ?name=. Parameters are name, type (a mnemonic or a number; A by
//     default), do, cd, edns_client_subnet, and ct, of which
//     "application/dns-message" asks for a message.
//
// Only the end of the path counts, so that the handler can be below a prefix.
// It answers 503 while the Server does not run. Clients are known by
// RemoteAddr. TLS, and limits of connections, are the HTTP server's.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var err error
	if s.current() == nil {
		err = &httpError{http.StatusServiceUnavailable, "the DNS server does not run"}
	}
	s.serveHTTP(w, r, err)
}

// serveHTTP answers a request, with err if that is not nil.
func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request, err error) {
	stats := s.counters.shard(overHTTPS)
	stats.queries.Add(1)
	outcome := &stats.dropped // also of a panic
	defer func() { outcome.Add(1) }()
	if err == nil {
		err = s.tryHTTP(w, r)
	}
	if err == nil {
		outcome = &stats.responses
		return
	}
	problem := httpProblem(err)
	switch problem.status {
	case 0:
		return // the client is gone
	case http.StatusMethodNotAllowed:
		w.Header().Set("Allow", "GET, POST")
	}
	http.Error(w, problem.text, problem.status)
}

func (s *Server) tryHTTP(w http.ResponseWriter, r *http.Request) error {
	in := s.getMessage()
	defer s.putMessage(in)
	req := webRequest{method: r.Method, path: r.URL.Path, query: r.URL.RawQuery,
		contentType: r.Header.Get("Content-Type"), accept: r.Header.Get("Accept"), length: r.ContentLength}
	var err error
	if *in, err = req.read(*in); err != nil {
		return err
	}
	if req.hasBody {
		// Where the HTTP server can, as a client must not hold the memory for long.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(messageTime))
		*in, err = readUpTo(r.Body, *in, maxMessage)
		switch {
		case errors.Is(err, errTooLong):
			return errBodyTooLong
		case err != nil:
			return &httpError{http.StatusBadRequest, "the message did not come to its end"}
		}
	}
	from := &asker{addr: addrPortOf(r.RemoteAddr), transport: overHTTPS}
	out := s.getMessage()
	defer s.putMessage(out)
	sc := s.scratches.Get().(*scratch)
	var body []byte
	*out, body, err = s.answerHTTP(sc, *out, *in, from, req.form)
	s.scratches.Put(sc)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", req.form)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", cacheControl(*out))
	h.Set("X-Content-Type-Options", "nosniff")
	if req.form != wireType {
		h.Set("Vary", "Accept")
	}
	if _, err := w.Write(body); err != nil {
		return &httpError{}
	}
	return nil
}

// addrPortOf is not valid if there is no IP address in text.
func addrPortOf(text string) netip.AddrPort {
	addr, _ := netip.ParseAddrPort(text)
	return netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
}

// answerHTTP makes the answer to a message, in out, and the body that it is in
// its form.
func (s *Server) answerHTTP(sc *scratch, out, in []byte, from *asker, form string) (msg, body []byte, err error) {
	if len(in) < headLen {
		return out, nil, &httpError{http.StatusBadRequest, "the message is shorter than its header"}
	}
	out = s.responding(sc, out, in, from)
	if len(out) < headLen {
		return out, nil, &httpError{http.StatusBadRequest, "the message is no query"}
	}
	if form == wireType {
		return out, out, nil
	}
	body, err = responseJSON(out)
	return out, body, err
}

func cacheControl(msg []byte) string {
	return "max-age=" + strconv.FormatUint(uint64(freshness(msg)), 10)
}

// webRequest is what of a request counts.
type webRequest struct {
	method, path, query string // path without escapes, query with them
	contentType, accept string
	length              int64 // of the body; -1: not known

	// What read finds.
	form    string // that the answer is to have
	hasBody bool   // which is the message
}

var errBodyTooLong = &httpError{http.StatusRequestEntityTooLarge, "the message is longer than 65535 bytes"}

// read appends the message to b, unless that is the body.
func (r *webRequest) read(b []byte) (msg []byte, err error) {
	r.form = wireType
	isJSONPath := strings.HasSuffix(r.path, "/resolve")
	switch {
	case r.method == http.MethodGet:
		return r.readQuery(b, isJSONPath)
	case isJSONPath:
		return b, &httpError{http.StatusMethodNotAllowed, "the method must be GET"}
	case r.method != http.MethodPost:
		return b, &httpError{http.StatusMethodNotAllowed, "the method must be GET or POST"}
	}
	if r.contentType != wireType {
		if t, _, err := mime.ParseMediaType(r.contentType); err != nil || t != wireType {
			return b, &httpError{http.StatusUnsupportedMediaType, "the content type must be " + wireType}
		}
	}
	if r.length > maxMessage {
		return b, errBodyTooLong
	}
	r.hasBody = true
	return b, nil
}

// drop lets go of what read is through with, which a client can have made long.
func (r *webRequest) drop() {
	r.path, r.query, r.contentType, r.accept = "", "", "", ""
	if r.method != http.MethodHead {
		r.method = ""
	}
}

// readQuery is read for a GET.
func (r *webRequest) readQuery(b []byte, isJSONPath bool) (msg []byte, err error) {
	// What clients send: nothing else, and nothing in it to decode.
	if text, ok := strings.CutPrefix(r.query, "dns="); ok && !isJSONPath && !strings.ContainsAny(text, "&%+;") {
		return decodeQuery(text, b)
	}
	if len(r.query) > maxEncodedQuery+4096 {
		return b, &httpError{http.StatusRequestURITooLong, "the URL is too long"}
	}
	values, err := url.ParseQuery(r.query)
	if err != nil {
		return b, &httpError{http.StatusBadRequest, "the parameters in the URL cannot be read"}
	}
	switch texts := values["dns"]; {
	case len(texts) == 1 && !isJSONPath:
		return decodeQuery(texts[0], b)
	case len(texts) > 1:
		return b, &httpError{http.StatusBadRequest, "the parameter dns is there several times"}
	case isJSONPath, values.Has("name"):
		msg, r.form, err = readQuestion(values, r.accept, b)
		return msg, err
	}
	return b, &httpError{http.StatusBadRequest, "the parameter dns is missing"}
}

// decodeQuery appends a message in base64url without padding.
func decodeQuery(text string, b []byte) ([]byte, error) {
	if len(text) > maxEncodedQuery {
		return b, &httpError{http.StatusRequestURITooLong, "the message is longer than 65535 bytes"}
	}
	// Decoders skip line breaks, which a URL has no use for.
	b, err := base64.RawURLEncoding.AppendDecode(b, []byte(text))
	if err != nil || strings.ContainsAny(text, "\r\n") {
		return b, &httpError{http.StatusBadRequest, "the parameter dns is not base64url without padding"}
	}
	return b, nil
}

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
	stats := s.counters.shard(overHTTPS)
	stats.queries.Add(1)
	err := s.serveHTTP(w, r)
	if err == nil {
		stats.responses.Add(1)
		return
	}
	stats.dropped.Add(1)
	problem := &httpError{http.StatusInternalServerError, "internal error"}
	errors.As(err, &problem)
	switch problem.status {
	case 0:
		return // the client is gone
	case http.StatusMethodNotAllowed:
		w.Header().Set("Allow", "GET, POST")
	}
	http.Error(w, problem.text, problem.status)
}

func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) error {
	if s.current() == nil {
		return &httpError{http.StatusServiceUnavailable, "the DNS server does not run"}
	}
	in := s.getMessage()
	defer s.putMessage(in)
	form := wireType
	var err error
	switch isJSONPath := strings.HasSuffix(r.URL.Path, "/resolve"); {
	case r.Method == http.MethodPost && !isJSONPath:
		*in, err = readBody(w, r, *in)
	case r.Method != http.MethodGet:
		err = &httpError{http.StatusMethodNotAllowed, "the method must be GET or POST"}
		if isJSONPath {
			err = &httpError{http.StatusMethodNotAllowed, "the method must be GET"}
		}
	default:
		*in, form, err = readURL(r, *in, isJSONPath)
	}
	if err != nil {
		return err
	}
	if len(*in) < headLen {
		return &httpError{http.StatusBadRequest, "the message is shorter than its header"}
	}
	from := &asker{transport: overHTTPS}
	if addr, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		from.addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	}
	out := s.getMessage()
	defer s.putMessage(out)
	sc := s.scratches.Get().(*scratch)
	*out = s.responding(sc, *out, *in, from)
	s.scratches.Put(sc)
	if len(*out) < headLen {
		return &httpError{http.StatusBadRequest, "the message is no query"}
	}
	body := *out
	if form != wireType {
		if body, err = responseJSON(*out); err != nil {
			return err
		}
	}
	h := w.Header()
	h.Set("Content-Type", form)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "max-age="+strconv.FormatUint(uint64(freshness(*out)), 10))
	h.Set("X-Content-Type-Options", "nosniff")
	if form != wireType {
		h.Set("Vary", "Accept")
	}
	if _, err := w.Write(body); err != nil {
		return &httpError{}
	}
	return nil
}

// readBody appends the message of a POST to b.
func readBody(w http.ResponseWriter, r *http.Request, b []byte) ([]byte, error) {
	if t := r.Header.Get("Content-Type"); t != wireType {
		if t, _, err := mime.ParseMediaType(t); err != nil || t != wireType {
			return b, &httpError{http.StatusUnsupportedMediaType, "the content type must be " + wireType}
		}
	}
	tooLong := &httpError{http.StatusRequestEntityTooLarge, "the message is longer than 65535 bytes"}
	if r.ContentLength > maxMessage {
		return b, tooLong
	}
	// Where the HTTP server can, as a client must not hold the memory for long.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(messageTime))
	b, err := readUpTo(r.Body, b, maxMessage)
	switch {
	case errors.Is(err, errTooLong):
		return b, tooLong
	case err != nil:
		return b, &httpError{http.StatusBadRequest, "the message did not come to its end"}
	}
	return b, nil
}

// readURL appends the message of a GET to b, and tells the form that the
// answer is to have.
func readURL(r *http.Request, b []byte, isJSONPath bool) ([]byte, string, error) {
	raw := r.URL.RawQuery
	// What clients send: nothing else, and nothing in it to decode.
	if text, ok := strings.CutPrefix(raw, "dns="); ok && !isJSONPath && !strings.ContainsAny(text, "&%+;") {
		b, err := decodeQuery(text, b)
		return b, wireType, err
	}
	if len(raw) > maxEncodedQuery+4096 {
		return b, "", &httpError{http.StatusRequestURITooLong, "the URL is too long"}
	}
	values, err := url.ParseQuery(raw)
	if err != nil {
		return b, "", &httpError{http.StatusBadRequest, "the parameters in the URL cannot be read"}
	}
	switch texts := values["dns"]; {
	case len(texts) == 1 && !isJSONPath:
		b, err := decodeQuery(texts[0], b)
		return b, wireType, err
	case len(texts) > 1:
		return b, "", &httpError{http.StatusBadRequest, "the parameter dns is there several times"}
	case isJSONPath, values.Has("name"):
		return readQuestion(values, r.Header.Get("Accept"), b)
	}
	return b, "", &httpError{http.StatusBadRequest, "the parameter dns is missing"}
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

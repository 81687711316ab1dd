package dnsserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// jsonMessage is a response as Google and Cloudflare write it.
type jsonMessage struct {
	Status     int // the response code
	TC         bool
	RD         bool
	RA         bool
	AD         bool
	CD         bool
	Question   []jsonQuestion
	Answer     []jsonRecord `json:",omitempty"`
	Authority  []jsonRecord `json:",omitempty"`
	Additional []jsonRecord `json:",omitempty"`
	Subnet     string       `json:"edns_client_subnet,omitempty"`
}

type jsonQuestion struct {
	Name string `json:"name"`
	Type uint16 `json:"type"`
}

type jsonRecord struct {
	Name string `json:"name"`
	Type uint16 `json:"type"`
	TTL  uint32
	Data string `json:"data"`
}

// readQuestion appends the query that parameters describe to b, and tells the
// form of the answer.
func readQuestion(values url.Values, accept string, b []byte) ([]byte, string, error) {
	wrong := func(format string, args ...any) ([]byte, string, error) {
		return b, "", &httpError{http.StatusBadRequest, fmt.Sprintf(format, args...)}
	}
	for key, list := range values {
		if len(list) > 1 {
			return wrong("the parameter %.40q is there several times", key)
		}
	}
	name := values.Get("name")
	switch {
	case name == "":
		return wrong("the parameter name is missing")
	case len(name) > 4*255: // each byte may be escaped by three more
		return wrong("name: longer than any domain name")
	case strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return wrong("name: %.60q is not in ASCII: write international names as xn--", name)
	}
	qtype, ok := readType(values.Get("type"))
	if !ok {
		return wrong("type: %.40q is not a record type", values.Get("type"))
	}
	checking, ok1 := readFlag(values.Get("cd"))
	do, ok2 := readFlag(values.Get("do"))
	if !ok1 || !ok2 {
		return wrong("cd and do are 1 or true, or 0 or false")
	}
	form, ok := readForm(values.Get("ct"), accept)
	if !ok {
		return wrong("ct: %.40q is not known: use %s or %s", values.Get("ct"), jsonType, wireType)
	}
	m := dns.Msg{Question: []dns.Question{{Name: dns.Fqdn(name), Qtype: qtype, Qclass: dns.ClassINET}}}
	m.RecursionDesired, m.CheckingDisabled = true, checking
	m.SetEdns0(dns.DefaultMsgSize, do)
	if text := values.Get("edns_client_subnet"); text != "" {
		subnet, ok := readSubnet(text)
		if !ok {
			return wrong("edns_client_subnet: %.60q is not an IP address or prefix", text)
		}
		m.IsEdns0().Option = append(m.IsEdns0().Option, subnet)
	}
	packed, err := m.Pack()
	if err != nil {
		return wrong("name: %.60q is not a domain name", name)
	}
	return append(b, packed...), form, nil
}

func readType(s string) (uint16, bool) {
	if s == "" {
		return dns.TypeA, true
	}
	if n, err := strconv.ParseUint(s, 10, 16); err == nil {
		return uint16(n), n > 0
	}
	s = strings.ToUpper(s)
	if t, ok := dns.StringToType[s]; ok {
		return t, t != dns.TypeNone
	}
	if digits, ok := strings.CutPrefix(s, "TYPE"); ok { // RFC 3597 section 5
		n, err := strconv.ParseUint(digits, 10, 16)
		return uint16(n), err == nil && n > 0
	}
	return 0, false
}

func readFlag(s string) (on, ok bool) {
	switch strings.ToLower(s) {
	case "1", "true":
		return true, true
	case "", "0", "false":
		return false, true
	}
	return false, false
}

// readForm chooses the media type of the answer.
func readForm(ct, accept string) (string, bool) {
	const plain = "application/json"
	switch ct {
	case wireType, jsonType, plain:
		return ct, true
	case "application/x-javascript": // of Google
		return plain, true
	case "":
		if strings.Contains(accept, jsonType) {
			return jsonType, true
		}
		return plain, true
	}
	return "", false
}

func readSubnet(s string) (*dns.EDNS0_SUBNET, bool) {
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		addr, err := netip.ParseAddr(s)
		if err != nil || addr.Zone() != "" {
			return nil, false
		}
		bits := 24 // what Google makes of an address
		if addr.Is6() {
			bits = 56
		}
		prefix = netip.PrefixFrom(addr, bits)
	}
	prefix = prefix.Masked()
	option := &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: uint8(prefix.Bits()), Address: prefix.Addr().AsSlice()}
	if prefix.Addr().Is6() {
		option.Family = 2
	}
	return option, true
}

// responseJSON writes a response as JSON.
func responseJSON(msg []byte) ([]byte, error) {
	var m dns.Msg
	if err := m.Unpack(msg); err != nil {
		return nil, fmt.Errorf("unreadable response of ours: %w", err)
	}
	j := jsonMessage{
		Status: m.Rcode, TC: m.Truncated, RD: m.RecursionDesired, RA: m.RecursionAvailable,
		AD: m.AuthenticatedData, CD: m.CheckingDisabled,
		Answer: jsonRecords(m.Answer), Authority: jsonRecords(m.Ns), Additional: jsonRecords(m.Extra),
		Question: []jsonQuestion{},
	}
	for _, q := range m.Question {
		j.Question = append(j.Question, jsonQuestion{q.Name, q.Qtype})
	}
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if subnet, ok := o.(*dns.EDNS0_SUBNET); ok {
				j.Subnet = fmt.Sprintf("%s/%d", subnet.Address, subnet.SourceScope)
			}
		}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(j)
	return b.Bytes(), err
}

func jsonRecords(list []dns.RR) (out []jsonRecord) {
	for _, rr := range list {
		h := rr.Header()
		if h.Rrtype == dns.TypeOPT {
			continue // no data, but about the message
		}
		data := strings.TrimPrefix(rr.String(), h.String())
		if unknown, ok := rr.(*dns.RFC3597); ok { // which writes its header in another way
			data = fmt.Sprintf("\\# %d %s", len(unknown.Rdata)/2, unknown.Rdata)
		}
		out = append(out, jsonRecord{h.Name, h.Rrtype, h.Ttl, data})
	}
	return out
}

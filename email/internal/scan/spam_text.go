package scan

import (
	"bytes"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/net/html"
	"golang.org/x/net/publicsuffix"
)

// gtube is the test message of spam filters, in two pieces so that mail with this
// source is not taken for one.
func gtube() []byte {
	return []byte("XJS*C4JDBQADN1.NSBN3*2IDNEN*" + "GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X")
}

func containsGTUBE(text []byte) bool { return bytes.Contains(text, gtube()) }

func isASCII(text []byte) bool {
	for _, b := range text {
		if b >= 0x80 || b < ' ' && b != '\t' && b != '\r' && b != '\n' {
			return false
		}
	}
	return true
}

// maxLinks bounds how many links of a part are looked at.
const maxLinks = 1000

// plainText looks for links in a text.
func (t *spamTally) plainText(text []byte) {
	for range maxLinks {
		i := bytes.Index(text, []byte("://"))
		if i < 0 {
			return
		}
		scheme := bytes.ToLower(text[max(0, i-5):i])
		text = text[i+3:]
		if !bytes.HasSuffix(scheme, []byte("http")) && !bytes.HasSuffix(scheme, []byte("https")) {
			continue
		}
		end := bytes.IndexAny(text[:min(len(text), maxLink)], " \t\r\n<>\"'")
		if end < 0 {
			end = min(len(text), maxLink)
		}
		t.link("http://" + string(text[:end]))
	}
}

const maxLink = 2048

// link judges where a link leads, and returns its host, or "" where that cannot be
// told.
func (t *spamTally) link(raw string) string {
	scheme, rest, ok := strings.Cut(strings.TrimSpace(raw), "://")
	if !ok || !strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https") {
		return ""
	}
	if end := strings.IndexAny(rest, `/\?#`); end >= 0 {
		rest = rest[:end]
	}
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		t.add(true, "URL_HIDDEN", 2.5)
		rest = rest[i+1:]
	}
	if strings.Contains(rest, "%") {
		t.add(true, "URL_HIDDEN", 2.5)
		if plain, err := url.PathUnescape(rest); err == nil {
			rest = plain
		}
	}
	host := strings.ToLower(rest)
	if strings.HasPrefix(host, "[") {
		host, _, _ = strings.Cut(host[1:], "]")
	} else {
		host, _, _ = strings.Cut(host, ":")
	}
	host = strings.TrimSuffix(host, ".")
	if _, err := netip.ParseAddr(host); err == nil {
		t.add(true, "URL_IP", 2)
		return host
	}
	// Browsers take numbers in any base, and fewer than four, for an address too.
	last := host[strings.LastIndexByte(host, '.')+1:]
	if _, err := strconv.ParseUint(last, 0, 64); err == nil {
		t.add(true, "URL_HIDDEN", 2.5)
	}
	return host
}

// html looks at links, what they show, and text that nobody is to see.
func (t *spamTally) html(text []byte) {
	z := html.NewTokenizer(bytes.NewReader(text))
	z.SetMaxBuf(maxTextPart)
	host := "" // where the link leads that we are in
	var shown strings.Builder
	links := 0
	for {
		switch z.Next() {
		case html.ErrorToken:
			return
		case html.TextToken:
			if host != "" && shown.Len() < maxLink {
				shown.Write(z.Text())
			}
		case html.EndTagToken:
			if name, _ := z.TagName(); string(name) == "a" && host != "" {
				t.compare(host, shown.String())
				host = ""
				shown.Reset()
			}
		case html.StartTagToken, html.SelfClosingTagToken:
			name, more := z.TagName()
			isLink := string(name) == "a" || string(name) == "form" || string(name) == "area"
			for more {
				var key, value []byte
				key, value, more = z.TagAttr()
				switch string(key) {
				case "href", "action":
					if links++; isLink && links <= maxLinks {
						if to := t.link(string(value[:min(len(value), maxLink)])); string(name) == "a" {
							host = to
							shown.Reset()
						}
					}
				case "style":
					t.add(isHidden(value), "HIDDEN_TEXT", 1)
				}
			}
		}
	}
}

// isHidden knows the usual ways to hide text from people. What is not displayed at
// all is left out: newsletters do that for a preview.
func isHidden(style []byte) bool {
	style = bytes.ToLower(bytes.Map(func(r rune) rune {
		if r == ' ' || r == '\t' || r == '\n' || r == '\r' {
			return -1
		}
		return r
	}, style[:min(len(style), maxLink)]))
	for _, s := range []string{"font-size:0", "font-size:1px", "visibility:hidden"} {
		if i := bytes.Index(style, []byte(s)); i >= 0 && !bytes.HasPrefix(style[i+len(s):], []byte(".")) {
			return true
		}
	}
	return false
}

// compare looks at a link whose text is a link or a host itself.
func (t *spamTally) compare(host, shown string) {
	shown = strings.ToLower(strings.TrimSpace(shown))
	if _, rest, ok := strings.Cut(shown, "://"); ok {
		shown = rest
	} else if !strings.HasPrefix(shown, "www.") {
		return
	}
	if end := strings.IndexAny(shown, "/?#: \t\r\n"); end >= 0 {
		shown = shown[:end]
	}
	if strings.Contains(shown, ".") && !strings.HasSuffix(shown, "...") {
		t.add(!sameSite(shown, host), "URL_OTHER", 1)
	}
}

// sameSite reports whether two hosts belong to the same registered domain.
func sameSite(a, b string) bool {
	site := func(host string) string {
		host = strings.ToLower(strings.TrimSuffix(host, "."))
		if s, err := publicsuffix.EffectiveTLDPlusOne(host); err == nil {
			return s
		}
		return host
	}
	return site(a) == site(b)
}

// heloAddr reads an address that a client gives as its name, which is to be in
// brackets (RFC 5321 section 4.1.3).
func heloAddr(helo string) (ip netip.Addr, literal bool) {
	inner, open := strings.CutPrefix(helo, "[")
	inner, closed := strings.CutSuffix(inner, "]")
	inner = strings.TrimPrefix(inner, "ipv6:")
	ip, err := netip.ParseAddr(inner)
	if err != nil {
		return netip.Addr{}, false
	}
	return ip.Unmap(), open && closed
}

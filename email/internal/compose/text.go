package compose

import (
	"fmt"
	"strings"
	"unicode"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
)

// Text returns what a person reads in HTML, as plain text: a line for each block, an
// empty one between paragraphs, dashes and numbers at lists, and behind the text
// of a link its address, unless that is the text.
func Text(source string) string {
	t := &textWriter{}
	z := html.NewTokenizer(strings.NewReader(source))
	for {
		switch z.Next() {
		case html.ErrorToken:
			t.endLink()
			return strings.TrimRightFunc(t.out.String(), unicode.IsSpace)
		case html.TextToken:
			if !t.hidden {
				t.text(string(z.Text()))
			}
		case html.StartTagToken, html.SelfClosingTagToken:
			t.start(z.Token())
		case html.EndTagToken:
			t.end(z.Token().DataAtom)
		}
	}
}

// maxNesting bounds how deep lists are counted.
const maxNesting = 32

type textWriter struct {
	out    strings.Builder
	breaks int  // line breaks before the next word
	space  bool // a space before it
	hidden bool // within a script or the like
	pre    int

	lists []int // number of the next element, 0 in lists with dashes
	// link is where the text of a link starts, and href its address, "" if there
	// is nothing to show.
	link int
	href string
}

func (t *textWriter) breakLines(n int) { t.breaks = max(t.breaks, n) }

// put writes a piece of text behind the white space that is due.
func (t *textWriter) put(s string) {
	switch {
	case t.out.Len() == 0:
	case t.breaks > 0:
		t.out.WriteString(strings.Repeat("\n", t.breaks))
	case t.space:
		t.out.WriteByte(' ')
	}
	t.breaks, t.space = 0, false
	t.out.WriteString(s)
}

func (t *textWriter) text(s string) {
	if t.pre > 0 {
		for i, line := range strings.Split(strings.ReplaceAll(s, "\r\n", "\n"), "\n") {
			if i > 0 {
				t.breaks++
			}
			if line != "" {
				t.put(line)
			}
		}
		return
	}
	for s != "" {
		word := strings.TrimLeftFunc(s, unicode.IsSpace)
		t.space = t.space || len(word) < len(s)
		if word == "" {
			return
		}
		n := strings.IndexFunc(word, unicode.IsSpace)
		if n < 0 {
			n = len(word)
		}
		t.put(word[:n])
		s = word[n:]
	}
}

func (t *textWriter) start(tok html.Token) {
	switch tok.DataAtom {
	case atom.Script, atom.Style, atom.Title, atom.Noscript, atom.Template:
		t.hidden = tok.Type == html.StartTagToken
	case atom.Br:
		t.breaks++
	case atom.Hr:
		t.breakLines(1)
		t.put("---")
		t.breakLines(1)
	case atom.Pre:
		t.breakLines(2)
		t.pre++
	case atom.Ul, atom.Ol:
		t.breakLines(1)
		if len(t.lists) < maxNesting {
			first := 0
			if tok.DataAtom == atom.Ol {
				first = 1
			}
			t.lists = append(t.lists, first)
		}
	case atom.Li:
		t.breakLines(1)
		mark := "-"
		if n := len(t.lists); n > 0 && t.lists[n-1] > 0 {
			mark = fmt.Sprintf("%d.", t.lists[n-1])
			t.lists[n-1]++
		}
		t.put(strings.Repeat("  ", max(0, len(t.lists)-1)) + mark)
		t.space = true
	case atom.Td, atom.Th:
		t.space = true
	case atom.Img:
		t.text(attribute(tok, "alt"))
	case atom.A:
		t.endLink()
		href := strings.TrimSpace(attribute(tok, "href"))
		scheme, _, _ := strings.Cut(strings.ToLower(href), ":")
		if scheme == "http" || scheme == "https" || scheme == "mailto" || scheme == "tel" {
			t.link, t.href = t.out.Len(), href
		}
	default:
		t.breakLines(blockBreaks(tok.DataAtom))
	}
}

func (t *textWriter) end(tag atom.Atom) {
	switch tag {
	case atom.Script, atom.Style, atom.Title, atom.Noscript, atom.Template:
		t.hidden = false
	case atom.Pre:
		t.pre = max(0, t.pre-1)
		t.breakLines(2)
	case atom.Ul, atom.Ol:
		if n := len(t.lists); n > 0 {
			t.lists = t.lists[:n-1]
		}
		t.breakLines(1)
		if len(t.lists) == 0 {
			t.breakLines(2)
		}
	case atom.A:
		t.endLink()
	default:
		t.breakLines(blockBreaks(tag))
	}
}

// endLink writes the address of a link whose text is something else.
func (t *textWriter) endLink() {
	if t.href == "" {
		return
	}
	text, href := strings.TrimSpace(t.out.String()[t.link:]), t.href
	t.href = ""
	shown := strings.TrimSuffix(href, "/")
	for _, scheme := range []string{"", "https://", "http://", "mailto:", "tel:"} {
		if rest, ok := strings.CutPrefix(shown, scheme); ok && rest == strings.TrimSuffix(text, "/") {
			return
		}
	}
	if text != "" {
		href = "(" + href + ")"
	}
	t.space = t.space || text != ""
	t.put(strings.Join(strings.Fields(href), "%20"))
}

func attribute(tok html.Token, name string) string {
	for _, a := range tok.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

// blockBreaks is how many line breaks are before and after a block.
func blockBreaks(tag atom.Atom) int {
	switch tag {
	case atom.P, atom.H1, atom.H2, atom.H3, atom.H4, atom.H5, atom.H6, atom.Blockquote, atom.Table, atom.Dl, atom.Figure, atom.Form:
		return 2
	case atom.Div, atom.Section, atom.Article, atom.Header, atom.Footer, atom.Main, atom.Nav, atom.Aside, atom.Address, atom.Center,
		atom.Tr, atom.Dt, atom.Dd, atom.Fieldset, atom.Figcaption, atom.Body, atom.Head, atom.Caption, atom.Details, atom.Summary:
		return 1
	}
	return 0
}

package proxy

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
)

const (
	redirectVariables = "scheme host port uri path query"
	headerVariables   = "client_ip host scheme port route"
)

// checkTemplate checks the text of a redirection or header, in which {name}
// stands for a variable.
func checkTemplate(s, variables string) error {
	for i := 0; i < len(s); i++ {
		if s[i] < 0x20 && s[i] != '\t' || s[i] == 0x7f {
			return fmt.Errorf("%q has a control character", s)
		}
	}
	for rest := s; ; {
		_, after, ok := strings.Cut(rest, "{")
		if !ok {
			return nil
		}
		name, after, ok := strings.Cut(after, "}")
		if !ok {
			return fmt.Errorf("%q has a { without a }", s)
		}
		if !slices.Contains(strings.Fields(variables), name) {
			return fmt.Errorf("{%s} is unknown; there are {%s}", name, strings.Join(strings.Fields(variables), "}, {"))
		}
		rest = after
	}
}

// expand replaces the variables of a template that checkTemplate has passed.
func expand(s string, value func(name string) string) string {
	if !strings.Contains(s, "{") {
		return s
	}
	var b strings.Builder
	for {
		before, after, ok := strings.Cut(s, "{")
		b.WriteString(before)
		if !ok {
			return b.String()
		}
		name, rest, _ := strings.Cut(after, "}")
		b.WriteString(value(name))
		s = rest
	}
}

// sorted iterates a map in the order of its keys, so that errors and edits
// come in the same order each time.
func sorted(m map[string]string) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		if len(m) == 0 {
			return
		}
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}

package deliver

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// maxName is the longest name that file systems take, in bytes.
const maxName = 255

// Template is the path of a mailbox, with {domain} and {user} for the parts of
// an address. Make one with [ParseTemplate].
type Template struct{ path string }

// ParseTemplate makes a template of an absolute path that [CheckTemplate] takes.
func ParseTemplate(s string) (Template, error) {
	if !filepath.IsAbs(s) {
		return Template{}, fmt.Errorf("the path %q is not absolute", s)
	}
	if err := CheckTemplate(s); err != nil {
		return Template{}, err
	}
	return Template{filepath.Clean(s)}, nil
}

// CheckTemplate says what is wrong with a template: it must have {user} in it, and
// tell from {domain} where one ends and the other begins.
func CheckTemplate(s string) error {
	path := filepath.Clean(s)
	rest := strings.NewReplacer("{domain}", "", "{user}", "").Replace(path)
	switch {
	case strings.ContainsAny(rest, "{}\x00"):
		return fmt.Errorf("%q has braces other than {domain} and {user}", s)
	case !strings.Contains(path, "{user}"):
		return fmt.Errorf("%q has no {user}: all mail would go into one mailbox", s)
	}
	// One of them alone between what escape never leaves can be told from the path,
	// and with it the other.
	pieces := strings.FieldsFunc(path, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-_+=.%{}", c))
	})
	for _, piece := range pieces {
		if strings.Contains(piece, "{user}") != strings.Contains(piece, "{domain}") {
			return nil
		}
	}
	return fmt.Errorf("%q would give some addresses the same mailbox: there must be a / or an @ between {user} and {domain}", s)
}

// Folder returns the mailbox of user@domain. Different addresses have different
// folders, but for the domain where the template does without, and apart from the
// domain's case, whatever is in them, and also where the file system does not tell
// upper from lower case. user is the local part without quotes; whether its case
// matters is for the caller to decide, who gives it in lower case if not.
func (t Template) Folder(user, domain string) (string, error) {
	if user == "" || domain == "" {
		return "", permanent(errors.New("the address has no user or no domain"))
	}
	u, d := escape(user), escape(strings.ToLower(domain))
	path := strings.NewReplacer("{domain}", d, "{user}", u).Replace(t.path)
	for name := range strings.SplitSeq(path, string(filepath.Separator)) {
		if len(name) > maxName {
			return "", permanent(errors.New("the address is too long for the name of a folder"))
		}
	}
	return path, nil
}

// escape makes one file name of any string. What is kept: lower case, digits,
// and of punctuation what has no meaning to file systems, shells and mailboxes;
// dots only inside. All else becomes %xx, so that no two strings give the same.
func escape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		plain := c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '+' || c == '='
		plain = plain && !(c == '-' && i == 0) // no option
		if plain || c == '.' && i > 0 && i < len(s)-1 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02x", c)
		}
	}
	return b.String()
}

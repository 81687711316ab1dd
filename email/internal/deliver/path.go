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

// ParseTemplate checks a template. It must be an absolute path, and have {user}
// in it.
func ParseTemplate(s string) (Template, error) {
	rest := strings.NewReplacer("{domain}", "", "{user}", "").Replace(s)
	switch {
	case !filepath.IsAbs(s):
		return Template{}, fmt.Errorf("the path %q is not absolute", s)
	case strings.ContainsAny(rest, "{}\x00"):
		return Template{}, fmt.Errorf("the path %q has more in braces than {domain} and {user}", s)
	case !strings.Contains(s, "{user}"):
		return Template{}, fmt.Errorf("the path %q has no {user}: all mail would go into one mailbox", s)
	}
	return Template{filepath.Clean(s)}, nil
}

// Folder returns the mailbox of user@domain. Different addresses have different
// folders, apart from the domain's case, whatever is in them, and also where the
// file system does not tell upper from lower case. user is the local part
// without quotes; whether its case matters is for the caller to decide, who
// gives it in lower case if not.
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

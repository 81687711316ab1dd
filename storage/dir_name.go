package storage

import (
	"encoding/hex"
	"path"
	"strings"
)

// Keys and file names. A name made from a key has only lower case letters,
// digits and . _ - @ %, so keys that differ in case are different files on
// every file system, and these marks are free for us:
//
//	name+        the folder for what is below the segment "name"
//	part=        the folder for the rest of a segment that is too long for a name
//	~...         the lock file and temporary files
//
// So "a" is the file "a" and "a/b" the file "a+/b": both can be there.
const (
	folderMark  = "+"
	partMark    = "="
	tempPrefix  = "~tmp-"
	dirLockName = "~lock"

	// File systems allow 255 bytes; stay well below.
	maxNameLength = 200
)

// fileOf returns the file of a key, with slashes.
func fileOf(key string) (string, error) {
	if err := checkKey(key, backendKeyLength); err != nil {
		return "", keyErr("name of", key, err)
	}
	i := strings.LastIndexByte(key, '/')
	if i < 0 {
		return escapeSegment(key), nil
	}
	return path.Join(folderOf(key[:i]), escapeSegment(key[i+1:])), nil
}

// folderOf returns the folder for what is below a valid key.
func folderOf(key string) string {
	var b strings.Builder
	for seg := range strings.SplitSeq(key, "/") {
		if b.Len() > 0 {
			b.WriteByte('/')
		}
		b.WriteString(escapeSegment(seg))
		b.WriteString(folderMark)
	}
	return b.String()
}

// keyOf is the inverse of fileOf. A file that fileOf never names has no key.
func keyOf(name string) (key string, ok bool) {
	escaped := strings.ReplaceAll(strings.ReplaceAll(name, partMark+"/", ""), folderMark+"/", "/")
	key, ok = unescape(escaped)
	if !ok {
		return "", false
	}
	// Many names would unescape to this key; only one is right.
	back, err := fileOf(key)
	return key, err == nil && back == name
}

func isFolderName(name string) bool {
	return strings.HasSuffix(name, folderMark) || strings.HasSuffix(name, partMark)
}

// escapeSegment makes a name of a segment, or several if it is long.
func escapeSegment(seg string) string {
	var b strings.Builder
	for i := range len(seg) {
		// Some systems drop a dot at the end.
		if plainByte(seg[i]) && (seg[i] != '.' || i < len(seg)-1) {
			b.WriteByte(seg[i])
		} else {
			b.WriteByte('%')
			b.WriteString(hex.EncodeToString([]byte{seg[i]}))
		}
	}
	name := b.String()
	if len(name) <= maxNameLength {
		return name
	}
	b.Reset()
	for len(name) > maxNameLength {
		b.WriteString(name[:maxNameLength])
		b.WriteString(partMark + "/")
		name = name[maxNameLength:]
	}
	return b.String() + name
}

func plainByte(c byte) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || strings.IndexByte("._-@", c) >= 0
}

func unescape(s string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", false
		}
		c, err := hex.DecodeString(s[i+1 : i+3])
		if err != nil {
			return "", false
		}
		b.WriteByte(c[0])
		i += 2
	}
	return b.String(), true
}

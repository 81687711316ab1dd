package storage

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxKeyLength is the greatest length of a key in bytes.
const MaxKeyLength = 1024

// backendKeyLength is what a backend must accept: a key below one of ours.
const backendKeyLength = MaxKeyLength + 64

// CanonicalKey returns the canonical form of key, or an error that wraps
// [ErrInvalidKey] and says what is wrong. One leading slash is accepted and
// dropped. What is left is one or more segments with a slash between them.
// No segment is empty, "." or ".."; there are no control characters, the
// whole is valid UTF-8 and at most [MaxKeyLength] bytes long. Nothing else is
// changed: keys are case-sensitive and not normalised.
func CanonicalKey(key string) (string, error) {
	k := strings.TrimPrefix(key, "/")
	if err := checkKey(k, MaxKeyLength); err != nil {
		return "", err
	}
	return k, nil
}

// checkKey says what is wrong with a key that should be canonical.
func checkKey(key string, limit int) error {
	switch {
	case key == "":
		return fmt.Errorf("%w: it is empty", ErrInvalidKey)
	case len(key) > limit:
		return fmt.Errorf("%w: it has %d bytes, and %d are allowed", ErrInvalidKey, len(key), limit)
	case !utf8.ValidString(key):
		return fmt.Errorf("%w: it is not valid UTF-8", ErrInvalidKey)
	case strings.ContainsFunc(key, unicode.IsControl):
		return fmt.Errorf("%w: it has a control character", ErrInvalidKey)
	}
	for seg := range strings.SplitSeq(key, "/") {
		switch seg {
		case "":
			return fmt.Errorf("%w: it has an empty segment", ErrInvalidKey)
		case ".", "..":
			return fmt.Errorf("%w: it has a segment %q", ErrInvalidKey, seg)
		}
	}
	return nil
}

// canonicalPrefix is CanonicalKey for List: "" and "/" are everything, and a
// trailing slash stays, since it leaves out the key before it.
func canonicalPrefix(prefix string) (string, error) {
	p := strings.TrimPrefix(prefix, "/")
	if p == "" {
		return "", nil
	}
	if err := checkKey(strings.TrimSuffix(p, "/"), MaxKeyLength); err != nil {
		return "", err
	}
	return p, nil
}

// MatchPrefix tells whether key is at or below prefix: it is prefix, or it
// starts with prefix + "/". A prefix that ends in "/" does not match the key
// before the slash, and the empty prefix matches everything. So "a" matches
// "a" and "a/b" but not "ab".
func MatchPrefix(key, prefix string) bool {
	if !strings.HasPrefix(key, prefix) {
		return false
	}
	return prefix == "" || len(key) == len(prefix) || prefix[len(prefix)-1] == '/' || key[len(prefix)] == '/'
}

// The keys below metaRoot belong to this package. List shows them only to
// those whose prefix asks for them, and nobody writes them through a Store.
const (
	metaRoot     = "_meta"
	schemaKey    = metaRoot + "/schema"
	fenceKey     = metaRoot + "/fence"
	migrationKey = metaRoot + "/migration"
	expiryRoot   = metaRoot + "/expiry"
	indexRoot    = metaRoot + "/index"
)

func isMeta(key string) bool { return MatchPrefix(key, metaRoot) }

// writableKey is CanonicalKey for callers that are about to write.
func writableKey(key string) (string, error) {
	k, err := CanonicalKey(key)
	if err != nil {
		return "", err
	}
	if isMeta(k) {
		return "", fmt.Errorf("%w: %q is reserved for the storage itself", ErrInvalidKey, metaRoot)
	}
	return k, nil
}

package conf

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

// Origin is, beside something stored, the configuration that it was made from: it
// holds as long as that is the same.
type Origin struct {
	Given json.RawMessage `json:"given,omitempty"`
	// Hash is what there was in place of Given before.
	Hash string `json:"from,omitempty"`
}

// IsFrom reports whether o is doc, which [Encode] has written of a T.
func IsFrom[T any](o Origin, doc []byte) bool {
	if o.Given == nil {
		sum := sha256.Sum256(doc)
		return o.Hash == hex.EncodeToString(sum[:])
	}
	return Same[T](o.Given, doc)
}

// Same reports whether two documents mean the same T. What one version of a program
// has written another may write otherwise, with fields that there were not before
// or in another order: so they are compared as this one reads them. Documents that
// cannot be read are not the same as any.
func Same[T any](a, b []byte) bool {
	x, errX := rewrite[T](a)
	y, errY := rewrite[T](b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// rewrite returns a document as [Encode] writes it now.
func rewrite[T any](doc []byte) ([]byte, error) {
	var v T
	if err := Decode(doc, &v); err != nil {
		return nil, err
	}
	return Encode(v, true)
}

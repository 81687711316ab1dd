package conf

import "bytes"

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

package conf

import "fmt"

// Checker collects what is wrong with a configuration, each problem with the
// path of its field. It is used by one goroutine at a time.
type Checker struct {
	at       *path
	problems *errorList
}

// NewChecker returns a Checker at the root.
func NewChecker() *Checker {
	return &Checker{problems: &errorList{}}
}

// Field returns a Checker for the field with this JSON name. It adds to the
// same problems as c.
func (c *Checker) Field(name string) *Checker {
	return &Checker{c.at.field(name), c.problems}
}

// Index is like Field, for an element of a list.
func (c *Checker) Index(i int) *Checker {
	return &Checker{c.at.element(i), c.problems}
}

// Key is like Field, for a value of a map.
func (c *Checker) Key(k string) *Checker {
	return &Checker{c.at.key(k), c.problems}
}

// Errorf adds a problem with the value that c stands at.
func (c *Checker) Errorf(format string, args ...any) {
	c.problems.add(c.at.String(), fmt.Sprintf(format, args...))
}

// Add adds the problems in err, as [Prefix] with the path of c would name
// them.
func (c *Checker) Add(err error) {
	for _, e := range Fields(err) {
		c.problems.addError(&FieldError{Path: join(c.at.String(), e.Path), Msg: e.Msg, Err: e.Err})
	}
}

// Path returns where c stands.
func (c *Checker) Path() string { return c.at.String() }

// Err returns all problems found so far, joined and in order, those of
// parents and children of c included. It is nil if there are none.
func (c *Checker) Err() error { return c.problems.err() }

package conf_test

import (
	"errors"
	"net/netip"
	"time"

	"github.com/dcrouter/dcrouter/internal/conf"
)

// sample has a field of every sort that the package knows.
type sample struct {
	Name     string                       `json:"name"`
	On       *bool                        `json:"on"`
	Off      bool                         `json:"off"`
	Tiny     int8                         `json:"tiny"`
	Count    uint16                       `json:"count"`
	Port     *int                         `json:"port"`
	Keep     int                          `json:"keep" conf:"preserve=-1,none=-2"`
	Ratio    float64                      `json:"ratio"`
	Small    float32                      `json:"small"`
	Wait     time.Duration                `json:"wait"`
	Waits    []time.Duration              `json:"waits"`
	Addr     netip.Addr                   `json:"addr"`
	Addrs    []netip.Prefix               `json:"addrs"`
	Password conf.Secret                  `json:"password"`
	Tokens   map[string]conf.Secret       `json:"tokens"`
	Headers  map[string]string            `json:"headers"`
	Ranges   []span                       `json:"ranges"`
	Cert     cert                         `json:"cert"`
	CertPtr  *cert                        `json:"certPtr"`
	Users    []user                       `json:"users"`
	UserPtrs []*user                      `json:"userPtrs"`
	Grid     [][]string                   `json:"grid"`
	Lists    map[string][]int             `json:"lists"`
	Inner    inner                        `json:"inner"`
	Deep     map[string]map[string]*inner `json:"deep"`
	shared
	Untagged int
	Hidden   string `json:"-"`
	Func     func() `json:"func"`
	Iface    any    `json:"iface"`
	private  string
}

type shared struct {
	Common string `json:"common"`
}

type inner struct {
	Sizes []int  `json:"sizes"`
	Mode  string `json:"mode"`
	Next  *inner `json:"next"`
	Skip  func() `json:"-"`
}

type user struct {
	Name     string      `json:"name" conf:"key"`
	Password conf.Secret `json:"password"`
	Port     int         `json:"port"`
}

// span is 5 or {"from":5,"to":7}.
type span struct {
	From int `json:"from"`
	To   int `json:"to"`
}

func (s *span) UnmarshalScalar(v any) error {
	f, ok := v.(float64)
	if !ok || f != float64(int(f)) {
		return errors.New("want a number or a range")
	}
	s.From, s.To = int(f), int(f)
	return nil
}

func (s span) MarshalScalar() (any, bool) { return s.From, s.From == s.To }

// cert is "auto" or {"path":"..."}.
type cert struct {
	Auto bool   `json:"-"`
	Path string `json:"path"`
}

func (c *cert) UnmarshalScalar(v any) error {
	if v != "auto" {
		return errors.New(`want "auto" or an object with path`)
	}
	c.Auto = true
	return nil
}

func (c cert) MarshalScalar() (any, bool) { return "auto", c.Auto }

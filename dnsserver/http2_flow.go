package dnsserver

import "golang.org/x/net/http2"

// Flow control (RFC 9113 section 5.2).

func (c *http2Conn) settings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	initial := c.initial
	err := f.ForeachSetting(func(s http2.Setting) error {
		switch s.ID {
		case http2.SettingHeaderTableSize:
			c.enc.SetMaxDynamicTableSize(min(s.Val, 4096))
		case http2.SettingInitialWindowSize:
			initial = int64(s.Val)
		}
		return s.Valid()
	})
	if err != nil {
		return err
	}
	err = c.framer.WriteSettingsAck()
	if more := initial - c.initial; more != 0 {
		c.initial = initial
		for _, st := range c.streams {
			if st.window += more; st.window > maxWindow {
				return http2.ConnectionError(http2.ErrCodeFlowControl)
			}
		}
		c.resume()
	}
	return err
}

// windowUpdate is leave to send more.
func (c *http2Conn) windowUpdate(id uint32, more int64) error {
	if id == 0 {
		if c.window += more; c.window > maxWindow {
			return http2.ConnectionError(http2.ErrCodeFlowControl)
		}
		c.resume()
		return nil
	}
	st := c.streams[id]
	if st == nil {
		return nil
	}
	if st.window += more; st.window > maxWindow {
		return http2.StreamError{StreamID: id, Code: http2.ErrCodeFlowControl}
	}
	c.resume()
	return nil
}

// give lets the client send as much again. It is told now and then.
func (c *http2Conn) give(n int64) {
	if c.taken += n; c.taken >= receiveWindow/8 {
		c.framer.WriteWindowUpdate(0, uint32(c.taken))
		c.takes += c.taken
		c.taken = 0
	}
}

package conn

import (
	"sync"
	"sync/atomic"

	"github.com/pollcast/pollcast/pkg/wire"
	"github.com/pollcast/pollcast/services/gateway/hub"
)

// maxControl bounds the control frames and answers that wait for one connection,
// in bytes. A client that asks faster than it reads the answers is closed as a slow
// consumer.
const maxControl = 64 << 10

// A Step is what a connection sends next: bytes, the end of the feed it is in, or
// a place in another feed.
type Step struct {
	Data  []byte
	Until uint64 // place in the feed, and
	Seq   uint64 // in the stream
	Feed  *hub.Feed
	Cur   hub.Cursor
	Pos   uint64
}

// A mail is what waits for a connection's writer. Its methods lock it.
type mail struct {
	attention atomic.Bool // something waits; set last, under mu

	mu      sync.Mutex
	frames  []byte // control frames and answers, whole
	steps   []Step
	closing []byte // the close frame
	code    wire.CloseCode
	over    chan struct{} // set with closing; closed when that was sent, or cannot be
}

// control adds frames, and returns how many bytes were added and whether there is
// room for more.
func (m *mail) control(frames []byte) (n int, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closing == nil {
		m.frames = append(m.frames, frames...)
		n = len(frames)
	}
	m.attention.Store(true)
	return n, len(m.frames) <= maxControl
}

// queue adds steps, and returns how many bytes they have.
func (m *mail) queue(steps []Step) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.steps = append(m.steps, steps...)
	for i := range steps {
		n += len(steps[i].Data)
	}
	m.attention.Store(true)
	return n
}

// close sets the close frame; false: there is one already.
func (m *mail) close(closing []byte, code wire.CloseCode) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closing != nil {
		return false
	}
	m.closing, m.code, m.over = closing, code, make(chan struct{})
	m.attention.Store(true)
	return true
}

func (m *mail) setCode(code wire.CloseCode) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.code = code
}

func (m *mail) isClosing() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.closing != nil
}

func (m *mail) closeCode() wire.CloseCode {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.code
}

// costly reports whether the connection is closed because of what it costs.
func (m *mail) costly() bool {
	code := m.closeCode()
	return code == wire.CloseSlowConsumer || code == wire.CloseOverloaded
}

// farewell returns the channel that is closed when the close frame was sent, or
// cannot be; nil if the connection is not closing.
func (m *mail) farewell() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.over
}

// sent releases the reader of a closing connection.
func (m *mail) sent() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.over == nil {
		return
	}
	select {
	case <-m.over:
	default:
		close(m.over)
	}
}

// take takes the control frames and answers. closing is the close frame; nil: the
// connection is not closing. No frames come after it.
func (m *mail) take() (frames, closing []byte, code wire.CloseCode) {
	m.mu.Lock()
	defer m.mu.Unlock()
	frames, m.frames = m.frames, nil
	return frames, m.closing, m.code
}

// takeStep takes the next step.
func (m *mail) takeStep() (s Step, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.steps) == 0 {
		m.steps = nil
		return s, false
	}
	s = m.steps[0]
	m.steps = m.steps[1:]
	return s, true
}

// dropSteps drops the steps, and returns how many bytes they had.
func (m *mail) dropSteps() (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.steps {
		n += len(m.steps[i].Data)
	}
	m.steps = nil
	return n
}

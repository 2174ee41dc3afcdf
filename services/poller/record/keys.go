package record

import (
	"strings"

	"github.com/pollcast/pollcast/pkg/event"
)

// keyToken is the last token of the topic of a key's event.
func keyToken(e *event.Event) (string, bool) { return strings.CutPrefix(e.Topic, e.Poll+".") }

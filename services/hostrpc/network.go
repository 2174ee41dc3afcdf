package hostrpc

import (
	"context"
	"slices"
	"strings"
	"time"

	psnet "github.com/shirou/gopsutil/v4/net"
)

// networkList is the answer of network.list, sorted by name.
type networkList struct {
	Interfaces  []networkInterface `json:"interfaces"` // nil when the host gives no information
	Unavailable []unavailable      `json:"unavailable,omitempty"`
}

// networkInterface counts bytes since the interface exists. Counters and rates
// are null where the host has none.
type networkInterface struct {
	Name             string   `json:"name"`
	Up               *bool    `json:"up"`
	Addresses        []string `json:"addresses"` // CIDR, sorted
	RxBytes          *uint64  `json:"rxBytes"`
	TxBytes          *uint64  `json:"txBytes"`
	RxBytesPerSecond *uint64  `json:"rxBytesPerSecond"` // over the last second
	TxBytesPerSecond *uint64  `json:"txBytesPerSecond"`
}

// nicCounters are the counters of the interfaces at the previous sample.
type nicCounters struct {
	at     time.Time
	byName map[string]psnet.IOCountersStat
}

// readNetwork joins two readings, the interfaces and the counters. Each is useful
// without the other.
func (s *sampler) readNetwork(ctx context.Context, now time.Time) networkList {
	var list networkList
	byName := make(map[string]*networkInterface)
	s.read("interfaces", &list.Unavailable, func() error {
		all, err := psnet.InterfacesWithContext(ctx)
		for _, i := range all {
			nic := &networkInterface{Name: i.Name, Up: new(slices.Contains(i.Flags, "up")),
				Addresses: make([]string, 0, len(i.Addrs))}
			for _, a := range i.Addrs {
				nic.Addresses = append(nic.Addresses, a.Addr)
			}
			slices.Sort(nic.Addresses)
			byName[i.Name] = nic
		}
		return err
	})
	s.read("counters", &list.Unavailable, func() error {
		counters, err := psnet.IOCountersWithContext(ctx, true)
		if err != nil {
			s.nics = nicCounters{}
			return err
		}
		next := nicCounters{at: now, byName: make(map[string]psnet.IOCountersStat, len(counters))}
		for _, c := range counters {
			next.byName[c.Name] = c
			nic := byName[c.Name]
			if nic == nil {
				nic = &networkInterface{Name: c.Name, Addresses: []string{}}
				byName[c.Name] = nic
			}
			nic.RxBytes, nic.TxBytes = new(c.BytesRecv), new(c.BytesSent)
			if before, ok := s.nics.byName[c.Name]; ok {
				window := now.Sub(s.nics.at)
				nic.RxBytesPerSecond = perSecond(before.BytesRecv, c.BytesRecv, window)
				nic.TxBytesPerSecond = perSecond(before.BytesSent, c.BytesSent, window)
			}
		}
		s.nics = next
		return nil
	})
	if len(list.Unavailable) == 2 {
		return list
	}
	list.Interfaces = make([]networkInterface, 0, len(byName))
	for _, nic := range byName {
		list.Interfaces = append(list.Interfaces, *nic)
	}
	slices.SortFunc(list.Interfaces, func(a, b networkInterface) int { return strings.Compare(a.Name, b.Name) })
	return list
}

/*
 * What C offers only as `static inline` or macro, as functions. None is called once per
 * packet on the fast path: bursts go to the driver straight from Rust, and what is here
 * takes a whole burst or is rare.
 */
#ifndef POLLUX_SHIM_H
#define POLLUX_SHIM_H

#include <stddef.h>
#include <stdint.h>

struct rte_mbuf;
struct rte_mempool;

/* The calling thread's rte_errno. */
int px_errno(void);
/* The calling thread's lcore, LCORE_ID_ANY if it has none. */
unsigned int px_lcore_id(void);

/* rte_eth_rx_burst / rte_eth_tx_burst with everything they do besides calling the
 * driver: the way for a queue that has callbacks. */
uint16_t px_eth_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **pkts, uint16_t n);
uint16_t px_eth_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **pkts, uint16_t n);

/* n new packets, reset, or none at all (then negative). */
int px_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **pkts, unsigned int n);
/* Frees n packets with all their segments, each run of one pool in one go. */
void px_pktmbuf_free_bulk(struct rte_mbuf **pkts, unsigned int n);
/* Frees one packet with all its segments; NULL is allowed. */
void px_pktmbuf_free(struct rte_mbuf *pkt);

/* Link state, without waiting. */
struct px_link {
	uint32_t speed_mbps;
	uint8_t up;
	uint8_t full_duplex;
};
int px_eth_link_get(uint16_t port, struct px_link *out);

/* Sends what DPDK logs to fn, in pieces as DPDK writes them; NULL restores stderr. */
int px_log_to(void (*fn)(const char *text, size_t len));

#endif

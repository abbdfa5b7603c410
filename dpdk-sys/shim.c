#define _GNU_SOURCE /* fopencookie */
#include <stdio.h>

#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>

#include "shim.h"

int px_errno(void)
{
	return rte_errno;
}

unsigned int px_lcore_id(void)
{
	return rte_lcore_id();
}

uint16_t px_eth_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **pkts, uint16_t n)
{
	return rte_eth_rx_burst(port, queue, pkts, n);
}

uint16_t px_eth_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **pkts, uint16_t n)
{
	return rte_eth_tx_burst(port, queue, pkts, n);
}

int px_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **pkts, unsigned int n)
{
	return rte_pktmbuf_alloc_bulk(pool, pkts, n);
}

void px_pktmbuf_free(struct rte_mbuf *pkt)
{
	rte_pktmbuf_free(pkt);
}

void px_pktmbuf_free_bulk(struct rte_mbuf **pkts, unsigned int n)
{
	/* Segments of one pool, collected so that the pool's cache is entered once. */
	void *run[64];
	struct rte_mempool *pool = NULL;
	unsigned int held = 0;

	for (unsigned int i = 0; i < n; i++) {
		struct rte_mbuf *seg = pkts[i];

		while (seg != NULL) {
			struct rte_mbuf *next = seg->next;

			seg = rte_pktmbuf_prefree_seg(seg);
			if (likely(seg != NULL)) {
				if (unlikely(held == RTE_DIM(run) || (held != 0 && seg->pool != pool))) {
					rte_mempool_put_bulk(pool, run, held);
					held = 0;
				}
				pool = seg->pool;
				run[held++] = seg;
			}
			seg = next;
		}
	}
	if (held != 0)
		rte_mempool_put_bulk(pool, run, held);
}

int px_eth_link_get(uint16_t port, struct px_link *out)
{
	struct rte_eth_link link = {0};
	int rc = rte_eth_link_get_nowait(port, &link);

	if (rc < 0)
		return rc;
	out->speed_mbps = link.link_speed;
	out->up = link.link_status == RTE_ETH_LINK_UP;
	out->full_duplex = link.link_duplex == RTE_ETH_LINK_FULL_DUPLEX;
	return 0;
}

static void (*log_fn)(const char *text, size_t len);

static ssize_t log_write(void *cookie, const char *text, size_t len)
{
	void (*fn)(const char *, size_t) = __atomic_load_n(&log_fn, __ATOMIC_ACQUIRE);

	(void)cookie;
	if (fn != NULL)
		fn(text, len);
	else
		fwrite(text, 1, len, stderr);
	return (ssize_t)len;
}

int px_log_to(void (*fn)(const char *text, size_t len))
{
	static FILE *stream;

	__atomic_store_n(&log_fn, fn, __ATOMIC_RELEASE);
	if (stream == NULL) {
		cookie_io_functions_t io = {.write = log_write};

		stream = fopencookie(NULL, "w", io);
		if (stream == NULL)
			return -1;
		setvbuf(stream, NULL, _IOLBF, 1024);
	}
	return rte_openlog_stream(stream);
}

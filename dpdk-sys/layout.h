/*
 * The fields whose place Rust relies on, FIELD(struct, field), and the structures whose size
 * it relies on, SIZE(struct).
 *
 * Read twice. wrapper.h turns each line into a constant that bindgen evaluates with
 * libclang; layout_check.c compares that constant with the offset that the C compiler
 * itself computes. A line that names a field which a DPDK release does not have stops
 * the build, and so does a disagreement between the two compilers.
 */

/* The structures that Rust makes, or takes by value. */
SIZE(rte_mbuf)
SIZE(rte_eth_fp_ops)
SIZE(rte_eth_dev_info)
SIZE(rte_eth_conf)
SIZE(rte_eth_rxconf)
SIZE(rte_eth_txconf)
SIZE(rte_eth_rss_conf)
SIZE(rte_eth_rss_reta_entry64)
SIZE(rte_eth_stats)
SIZE(rte_eth_xstat)
SIZE(rte_eth_xstat_name)
SIZE(rte_hash_parameters)

/* One packet buffer. Its fields lie in unnamed unions that differ between releases,
 * so that an offset is the one portable name they have. */
FIELD(rte_mbuf, buf_addr)
FIELD(rte_mbuf, data_off)
FIELD(rte_mbuf, refcnt)
FIELD(rte_mbuf, nb_segs)
FIELD(rte_mbuf, port)
FIELD(rte_mbuf, ol_flags)
FIELD(rte_mbuf, packet_type)
FIELD(rte_mbuf, pkt_len)
FIELD(rte_mbuf, data_len)
FIELD(rte_mbuf, vlan_tci)
FIELD(rte_mbuf, hash)
FIELD(rte_mbuf, buf_len)
FIELD(rte_mbuf, pool)
FIELD(rte_mbuf, next)
FIELD(rte_mbuf, tx_offload)

/* The driver's burst functions of one port; the order changed between releases. */
FIELD(rte_eth_fp_ops, rx_pkt_burst)
FIELD(rte_eth_fp_ops, tx_pkt_burst)
FIELD(rte_eth_fp_ops, tx_pkt_prepare)
FIELD(rte_eth_fp_ops, rxq)
FIELD(rte_eth_fp_ops, txq)
FIELD(rte_ethdev_qdata, data)
FIELD(rte_ethdev_qdata, clbk)

/* What is read or filled in when a port is opened. */
FIELD(rte_eth_dev_info, device)
FIELD(rte_eth_dev_info, driver_name)
FIELD(rte_eth_dev_info, max_rx_queues)
FIELD(rte_eth_dev_info, max_tx_queues)
FIELD(rte_eth_dev_info, rx_offload_capa)
FIELD(rte_eth_dev_info, tx_offload_capa)
FIELD(rte_eth_dev_info, reta_size)
FIELD(rte_eth_dev_info, hash_key_size)
FIELD(rte_eth_dev_info, flow_type_rss_offloads)
FIELD(rte_eth_dev_info, default_rxconf)
FIELD(rte_eth_dev_info, default_txconf)
FIELD(rte_eth_conf, rxmode)
FIELD(rte_eth_conf, txmode)
FIELD(rte_eth_conf, rx_adv_conf)
FIELD(rte_eth_rxmode, mq_mode)
FIELD(rte_eth_rxmode, mtu)
FIELD(rte_eth_rxmode, offloads)
FIELD(rte_eth_txmode, offloads)
FIELD(rte_eth_rss_conf, rss_key)
FIELD(rte_eth_rss_conf, rss_key_len)
FIELD(rte_eth_rss_conf, rss_hf)
FIELD(rte_eth_rss_reta_entry64, mask)
FIELD(rte_eth_rss_reta_entry64, reta)
FIELD(rte_eth_stats, ipackets)
FIELD(rte_eth_stats, opackets)
FIELD(rte_eth_stats, ibytes)
FIELD(rte_eth_stats, obytes)
FIELD(rte_eth_stats, imissed)
FIELD(rte_eth_stats, ierrors)
FIELD(rte_eth_stats, oerrors)
FIELD(rte_eth_stats, rx_nombuf)

/** ceph.conf of a cluster on one host: a monitor, a manager, one OSD on a sparse file, and the object gateway (RGW). */

export interface ClusterPorts {
  readonly gateway: number
  /** Two for the monitor, and the daemons' own from ten above it on. */
  readonly first: number
}

const GiB = 2 ** 30

export const cephConf = (folder: string, fsid: string, { gateway, first }: ClusterPorts): string => `[global]
fsid = ${fsid}
mon_initial_members = a
mon_host = ${monitorAddress(first)}
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
auth_allow_insecure_global_id_reclaim = false
keyring = ${folder}/keyring
run_dir = ${folder}/run
pid_file = ${folder}/run/$name.pid
admin_socket = ${folder}/run/$name.asok
log_file = ${folder}/log/$name.log
crash_dir = ${folder}/crash
mon_cluster_log_file = ${folder}/log/cluster.log
ms_bind_port_min = ${first + 10}
ms_bind_port_max = ${first + 170}
# One disk and one copy: what is tested is the gateway's manners and what a crash leaves.
osd_crush_chooseleaf_type = 0
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pgp_num = 8
osd_pool_default_pg_autoscale_mode = off
mon_allow_pool_size_one = true
mon_warn_on_pool_no_redundancy = false
mon_max_pg_per_osd = 1000
# The disk of a build host is often nearly full.
mon_data_avail_crit = 1
mon_data_avail_warn = 2
osd_objectstore = bluestore
bluestore_block_size = ${20 * GiB}
bluestore_block_preallocate_file = false
osd_memory_target = ${896 * 2 ** 20}
osd_heartbeat_grace = 10
osd_fast_shutdown = true
[mon]
mon_data = ${folder}/mon/$id
[mgr]
mgr_data = ${folder}/mgr/$id
mgr_initial_modules =
[osd]
osd_data = ${folder}/osd$id
[client.rgw.a]
keyring = ${folder}/rgw.keyring
rgw_frontends = beast endpoint=127.0.0.1:${gateway}
rgw_data = ${folder}/rgw
rgw_enable_ops_log = false
rgw_enable_usage_log = false
rgw_thread_pool_size = 64
`

export const monitorAddress = (first: number): string => `[v2:127.0.0.1:${first}/0,v1:127.0.0.1:${first + 1}/0]`

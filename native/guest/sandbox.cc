#include "sandbox.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

// Debian's nobody and nogroup.
const unsigned kNobody = 65534;

[[noreturn]] void fail(const char* what) {
  dprintf(2, "the sandbox cannot be built: %s: %s\n", what, strerror(errno));
  _exit(70);
}

void limit(__rlimit_resource resource, uint64_t value) {
  struct rlimit wanted;
  wanted.rlim_cur = value;
  wanted.rlim_max = value;
  if (setrlimit(resource, &wanted) != 0) fail("setrlimit");
}

// Best effort: a container or a strict kernel may refuse each of these, and the filter of system calls stands without them.
void leaveTheHost() {
  const bool root = geteuid() == 0;
  const int apart = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
  const bool isApart = unshare(root ? apart : apart | CLONE_NEWUSER) == 0;
  // What the host unmounts from now on goes here as well, where it lets us know.
  if (isApart && mount("none", "/", nullptr, MS_REC | MS_SLAVE, nullptr) == 0 &&
      mount("none", "/proc", "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=4k,mode=555") == 0) {
    if (chdir("/proc") != 0) fail("chdir");
    // A copy of the host's mounts would keep a mount alive that was unmounted there: the very one that we read for.
    if (syscall(SYS_pivot_root, ".", ".") == 0) {
      if (umount2(".", MNT_DETACH) != 0) fail("umount2");
    } else if (chroot(".") != 0) {
      fail("chroot");
    }
  }
  if (chdir("/") != 0) fail("chdir");
}

void becomeNobody() {
  if (geteuid() != 0 || getuid() != 0) return;
  // In a user namespace without a map there is nobody else to become.
  if (setgroups(0, nullptr) != 0 || setresgid(kNobody, kNobody, kNobody) != 0 || setresuid(kNobody, kNobody, kNobody) != 0)
    fail("setresuid");
}

sock_filter load(size_t offset) { return BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(offset)); }
sock_filter give(uint32_t verdict) { return BPF_STMT(BPF_RET | BPF_K, verdict); }

sock_filter jump(uint16_t condition, uint32_t value, uint8_t ifTrue, uint8_t ifFalse) {
  return BPF_JUMP(static_cast<uint16_t>(BPF_JMP | condition | BPF_K), value, ifTrue, ifFalse);
}

size_t argument(int index) { return offsetof(seccomp_data, args) + 8 * static_cast<size_t>(index); }

class Filter {
 public:
  Filter() {
    push({load(offsetof(seccomp_data, arch)), jump(BPF_JEQ, kArchitecture, 1, 0), give(SECCOMP_RET_KILL_PROCESS),
          load(offsetof(seccomp_data, nr))});
  }

  void allow(uint32_t call) { push({jump(BPF_JEQ, call, 0, 1), give(SECCOMP_RET_ALLOW)}); }

  // With a first argument, a descriptor, below `bound`.
  void allowBelow(uint32_t call, uint32_t bound) {
    push({jump(BPF_JEQ, call, 0, 4), load(argument(0)), jump(BPF_JGE, bound, 1, 0), give(SECCOMP_RET_ALLOW),
          give(SECCOMP_RET_KILL_PROCESS)});
  }

  // With none of these bits in its third argument, the protection of memory, and all of `flags` in its fourth.
  void allowMemory(uint32_t call, uint32_t forbidden, uint32_t flags) {
    push({jump(BPF_JEQ, call, 0, 6), load(argument(2)), jump(BPF_JSET, forbidden, 3, 0), load(argument(3)),
          jump(BPF_JSET, flags, 0, 1), give(SECCOMP_RET_ALLOW), give(SECCOMP_RET_KILL_PROCESS)});
  }

  void allowProtection(uint32_t call, uint32_t forbidden) {
    push({jump(BPF_JEQ, call, 0, 4), load(argument(2)), jump(BPF_JSET, forbidden, 1, 0), give(SECCOMP_RET_ALLOW),
          give(SECCOMP_RET_KILL_PROCESS)});
  }

  void install() {
    push({give(SECCOMP_RET_KILL_PROCESS)});
    sock_fprog program;
    program.len = static_cast<unsigned short>(code_.size());
    program.filter = code_.data();
    // TSYNC: the threads that were started before get it too; a number above zero is a thread that could not.
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) != 0) fail("seccomp");
  }

 private:
#if defined(__x86_64__)
  static const uint32_t kArchitecture = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
  static const uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
#else
#error "The sandbox knows no filter for this processor."
#endif

  void push(std::initializer_list<sock_filter> code) { code_.insert(code_.end(), code); }

  std::vector<sock_filter> code_;
};

}  // namespace

void shedPrivileges(const Cage& cage) {
  // A server that was killed leaves nobody behind who holds its sockets.
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) fail("PR_SET_PDEATHSIG");
  if (syscall(SYS_close_range, cage.descriptors, ~0U, 0) != 0)
    for (int fd = cage.descriptors; fd < 4096; fd++) close(fd);
  clearenv();
  leaveTheHost();
  becomeNobody();
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) fail("PR_SET_NO_NEW_PRIVS");
  // Nobody's other processes may not look into this one's memory. It undoes the death signal, as changing the user does.
  if (prctl(PR_SET_DUMPABLE, 0) != 0) fail("PR_SET_DUMPABLE");
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) fail("PR_SET_PDEATHSIG");
  limit(RLIMIT_AS, cage.memoryBytes);
  limit(RLIMIT_CPU, cage.cpuSeconds);
  limit(RLIMIT_CORE, 0);
  limit(RLIMIT_FSIZE, 0);
  limit(RLIMIT_NOFILE, static_cast<uint64_t>(cage.descriptors));
}

void closeCage(const Cage& cage) {
  limit(RLIMIT_NPROC, 0);
  const uint32_t fds = static_cast<uint32_t>(cage.descriptors);
  Filter filter;
  for (uint32_t call : {SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_recvmsg, SYS_sendmsg}) filter.allowBelow(call, fds);
  filter.allowMemory(SYS_mmap, PROT_EXEC, MAP_ANONYMOUS);
  filter.allowProtection(SYS_mprotect, PROT_EXEC);
  for (uint32_t call : {SYS_munmap, SYS_mremap, SYS_madvise, SYS_brk, SYS_futex, SYS_clock_gettime, SYS_gettimeofday,
                        SYS_clock_nanosleep, SYS_getpid, SYS_gettid, SYS_sched_yield, SYS_rt_sigreturn, SYS_rt_sigprocmask,
                        SYS_restart_syscall, SYS_getrandom, SYS_set_robust_list, SYS_rseq, SYS_exit, SYS_exit_group})
    filter.allow(call);
  filter.install();
}

// Shuts itself in as the reader of guests' filesystems does, and tries one thing. 'closed' before it, 'survived' after it.
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

#include "../../native/guest/sandbox.h"

namespace {

void say(const char* text) { (void)!write(1, text, strlen(text)); }

void* tryThread(void*) { return nullptr; }

void compute() {
  // More than one heap's worth, so that memory is asked for and given back.
  std::string all;
  for (int i = 0; i < 100; i++) all += std::string(1 << 20, 'x');
  if (all.size() != 100u << 20) abort();
}

void allocate() {
  // Touched, and never given back.
  for (int i = 0; i < 100; i++) {
    void* memory = malloc(64 << 20);
    if (!memory) {
      say("refused\n");
      return;
    }
    memset(memory, 1, 64 << 20);
  }
}

const std::map<std::string, void (*)()> kTries = {
    {"compute", compute},
    {"allocate", allocate},
    {"open", [] { (void)!open("/etc/passwd", O_RDONLY); }},
    {"openat", [] { (void)!syscall(SYS_openat, AT_FDCWD, "/", O_RDONLY); }},
    {"socket", [] { (void)!socket(AF_UNIX, SOCK_STREAM, 0); }},
    {"connect", [] { (void)!connect(1, nullptr, 0); }},
    {"execve", [] { execl("/bin/true", "true", nullptr); }},
    {"fork", [] { (void)!fork(); }},
    {"vfork", [] { (void)!syscall(SYS_vfork); }},
    {"thread", [] { pthread_t thread; pthread_create(&thread, nullptr, tryThread, nullptr); }},
    {"kill", [] { kill(getppid(), 0); }},
    {"kill-itself", [] { (void)!syscall(SYS_kill, getpid(), 0); }},
    {"ptrace", [] { ptrace(PTRACE_TRACEME, 0, nullptr, nullptr); }},
    {"code", [] { mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }},
    {"code-later",
     [] {
       void* page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
       mprotect(page, 4096, PROT_READ | PROT_EXEC);
     }},
    {"map-file", [] { mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE, 1, 0); }},
    {"other-descriptor", [] { char byte; (void)!read(99, &byte, 1); }},
    {"dup", [] { (void)!dup(1); }},
    {"ioctl", [] { (void)!syscall(SYS_ioctl, 1, 0, 0); }},
    {"setuid", [] { (void)!syscall(SYS_setuid, 0); }},
    {"unlink", [] { unlink("/tmp/nothing"); }},
    {"io-uring", [] { (void)!syscall(SYS_io_uring_setup, 1, nullptr); }},
#if defined(__x86_64__)
    {"x32", [] { (void)!syscall(0x40000000 | SYS_getpid); }},
#endif
};

}  // namespace

int main(int, char** arguments) {
  const std::string word = arguments[1];
  if (word == "place") {
    // Before the filter, which would not let it look.
    shedPrivileges({3, 512 << 20, 60});
    char folder[64] = "";
    const bool isEmpty = access("etc", F_OK) != 0 && access("/etc", F_OK) != 0;
    struct rlimit descriptors;
    getrlimit(RLIMIT_NOFILE, &descriptors);
    dprintf(1, "uid %u folder %s %s descriptors %lu environment %d\n", getuid(), getcwd(folder, sizeof folder),
            isEmpty ? "empty" : "shared", static_cast<unsigned long>(descriptors.rlim_cur), environ ? environ[0] != nullptr : 0);
    return 0;
  }
  const Cage cage{3, 512 << 20, 60};
  shedPrivileges(cage);
  closeCage(cage);
  say("closed\n");
  kTries.at(word)();
  say("survived\n");
  _exit(0);
}

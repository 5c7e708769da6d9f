// The agent inside the appliance VM: serves docs/guest-protocol.md for volumes that the appliance's programs find, unlock and mount.
//
//   agent (--port DEVICE | --fd N) [--programs DIR] [--threads N] [--handles no]
//
// Without handles, files are found again by their names, as on filesystems that have none.
// DIR (default /lifeboat) has `volumes` (prints JSON), `unlock NAME` (key on its input; 13: it does not fit) and `mount NAME` (prints the
// path, on one line). Errors of theirs are told in the words of their standard error. /proc has to be mounted.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>

#include "mounted.h"
#include "program.h"
#include "server.h"

namespace {

using namespace guest;

constexpr int kWrongKey = 13;
/** Of an emulated machine with one processor: while some wait for the disk, others are served. */
constexpr unsigned kThreads = 16;
constexpr size_t kVolumesMax = 255;

class Agent : public Server {
 public:
  Agent(std::string programs, bool mayUseHandles) : programs_(std::move(programs)), mayUseHandles_(mayUseHandles) {}

  const char* kind() const override { return "agent"; }

  Failure volumes(std::string& json) override { return run({"volumes"}, {}, json); }

  Failure unlock(const std::string& volume, Bytes key) override {
    std::string nothing;
    return run({"unlock", volume}, key, nothing);
  }

  Failure root(const std::string& volume, Found& found) override {
    Mounted* mounted = nullptr;
    if (Failure failure = mount(volume, mounted)) return failure;
    return mounted->root(found);
  }

  Failure statfs(const std::string& volume, Statfs& statfs) override {
    Mounted* mounted = nullptr;
    if (Failure failure = mount(volume, mounted)) return failure;
    return mounted->statfs(statfs);
  }

  Failure lookup(Bytes directory, Bytes name, Found& found) override {
    Mounted* mounted = of(directory);
    return mounted ? mounted->lookup(directory, name, found) : stale();
  }

  Failure list(Bytes directory, uint64_t position, Listing& listing) override {
    Mounted* mounted = of(directory);
    return mounted ? mounted->list(directory, position, listing) : stale();
  }

  Failure readLink(Bytes node, std::string& target) override {
    Mounted* mounted = of(node);
    return mounted ? mounted->readLink(node, target) : stale();
  }

  Failure xattrs(Bytes node, uint32_t first, Xattrs& xattrs) override {
    Mounted* mounted = of(node);
    return mounted ? mounted->xattrs(node, first, xattrs) : stale();
  }

  Failure read(Bytes node, uint64_t offset, uint8_t* target, size_t& length) override {
    Mounted* mounted = of(node);
    return mounted ? mounted->read(node, offset, target, length) : stale();
  }

  Failure extents(Bytes node, uint64_t offset, uint64_t length, Extents& extents) override {
    Mounted* mounted = of(node);
    return mounted ? mounted->extents(node, offset, length, extents) : stale();
  }

 private:
  static Failure stale() { return {ESTALE, "a node of nobody"}; }

  Mounted* of(Bytes node) {
    std::lock_guard<std::mutex> lock(mutex_);
    const size_t id = node.length > 0 ? node.data[0] : 0;
    return id < mounted_.size() ? mounted_[id].get() : nullptr;
  }

  /** One at a time: programs that change what is mounted do not meet. */
  Failure mount(const std::string& volume, Mounted*& mounted) {
    std::lock_guard<std::mutex> turn(running_);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      const auto known = names_.find(volume);
      if (known != names_.end()) {
        mounted = mounted_[known->second].get();
        return {};
      }
      if (mounted_.size() >= kVolumesMax) return {ENFILE, "too many volumes are open"};
    }
    std::string path;
    if (Failure failure = runAlone({"mount", volume}, {}, path)) return failure;
    while (!path.empty() && path.back() == '\n') path.pop_back();
    auto fresh = std::make_unique<Mounted>(static_cast<uint8_t>(mounted_.size()), mayUseHandles_);
    if (Failure failure = fresh->open(path)) return failure;
    std::lock_guard<std::mutex> lock(mutex_);
    names_[volume] = mounted_.size();
    mounted = fresh.get();
    mounted_.push_back(std::move(fresh));
    return {};
  }

  Failure run(std::vector<std::string> words, Bytes input, std::string& output) {
    std::lock_guard<std::mutex> turn(running_);
    return runAlone(std::move(words), input, output);
  }

  Failure runAlone(std::vector<std::string> words, Bytes input, std::string& output) {
    const std::string name = words[0];
    for (const std::string& word : words)
      if (word.empty() || word.find('\0') != std::string::npos) return {EINVAL, "a name that is none"};
    words[0] = programs_ + "/" + name;
    Ran ran = runProgram(words, input, kPayloadMax);
    if (ran.error != 0) return {ran.error, words[0] + ": " + strerror(ran.error)};
    if (ran.code == kWrongKey && name == "unlock") return {EACCES, ran.complaints};
    if (ran.code != 0)
      return {EIO, ran.complaints.empty() ? name + " ended with code " + std::to_string(ran.code) : ran.complaints};
    if (ran.output.size() > kPayloadMax) return {E2BIG, name + " said too much"};
    output = std::move(ran.output);
    return {};
  }

  const std::string programs_;
  const bool mayUseHandles_;
  std::mutex running_, mutex_;
  std::map<std::string, size_t> names_;
  std::vector<std::unique_ptr<Mounted>> mounted_;
};

/** A port says nothing, and takes nothing, until the host has opened its side. */
int openPort(const char* path) {
  const int fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return -1;
  for (;;) {
    pollfd polled{fd, POLLIN | POLLOUT, 0};
    if (poll(&polled, 1, -1) > 0 && !(polled.revents & POLLHUP)) return fd;
    poll(nullptr, 0, 50);
  }
}

int usage() {
  fprintf(stderr, "usage: agent (--port DEVICE | --fd N) [--programs DIR] [--threads N] [--handles no]\n");
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  const char *port = nullptr, *programs = "/lifeboat";
  int fd = -1;
  bool mayUseHandles = true;
  unsigned threads = kThreads;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--port") port = argv[i + 1];
    else if (flag == "--fd") fd = atoi(argv[i + 1]);
    else if (flag == "--programs") programs = argv[i + 1];
    else if (flag == "--threads") threads = static_cast<unsigned>(atoi(argv[i + 1]));
    else if (flag == "--handles") mayUseHandles = std::string(argv[i + 1]) != "no";
    else return usage();
  }
  if (argc % 2 == 0 || (port == nullptr) == (fd < 0) || threads > 64) return usage();
  signal(SIGPIPE, SIG_IGN);
  umask(077);
  if (port != nullptr) fd = openPort(port);
  if (fd < 0) {
    fprintf(stderr, "%s: %s\n", port, strerror(errno));
    return 1;
  }
  fcntl(fd, F_SETFD, FD_CLOEXEC);
  Agent agent(programs, mayUseHandles);
  const int error = serve(fd, agent, threads);
  if (error != 0) fprintf(stderr, "the connection ended: %s\n", strerror(error));
  return error == 0 ? 0 : 1;
}

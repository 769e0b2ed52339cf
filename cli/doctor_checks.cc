#include "cli/doctor_checks.h"

#include <dirent.h>
#include <dlfcn.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <set>
#include <sstream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "cli/listen_check.h"
#include "cli/service_binaries.h"
#include "moe/base/cpus.h"

namespace conclave {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;
constexpr int64_t kGiB = int64_t{1} << 30;

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string Bytes(int64_t bytes) {
  if (bytes >= kGiB) return absl::StrFormat("%.1f GiB", static_cast<double>(bytes) / kGiB);
  return absl::StrFormat("%.0f MiB", static_cast<double>(bytes) / kMiB);
}

// The words after `key` and a colon on the first line of /proc-like `text` that starts with `key`.
std::string ValueAfter(const std::string& text, absl::string_view key) {
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    if (!absl::StartsWith(line, key)) continue;
    const size_t colon = line.find(':');
    if (colon != absl::string_view::npos) {
      return std::string(absl::StripAsciiWhitespace(line.substr(colon + 1)));
    }
  }
  return "";
}

// A line of /proc/meminfo in bytes; 0 where it is missing.
int64_t MemoryBytes(const std::string& meminfo, absl::string_view key) {
  int64_t kib = 0;
  const std::string value = ValueAfter(meminfo, key);
  if (!absl::SimpleAtoi(absl::StripSuffix(value, " kB"), &kib)) return 0;
  return kib * 1024;
}

Finding Cpu() {
  const std::string flags_text = ValueAfter(ReadFile("/proc/cpuinfo"), "flags");
  const std::set<std::string> flags = absl::StrSplit(flags_text, ' ');
  std::vector<std::string> found, missing;
  for (const auto& [flag, shown] : std::vector<std::pair<std::string, std::string>>{{"avx2", "AVX2"},
                                                                                    {"fma", "FMA"},
                                                                                    {"avx512f", "AVX-512"},
                                                                                    {"avx512_vnni", "VNNI"},
                                                                                    {"avx512_bf16", "BF16"},
                                                                                    {"amx_bf16", "AMX-BF16"},
                                                                                    {"amx_int8", "AMX-INT8"}}) {
    (flags.count(flag) > 0 ? found : missing).push_back(shown);
  }
  Finding finding{"cpu", Verdict::kOk, "", ""};
  finding.value = absl::StrCat(UsableCores(), " cores; has ",
                               found.empty() ? "none of the vector extensions" : absl::StrJoin(found, ", "),
                               missing.empty() ? "" : absl::StrCat("; lacks ", absl::StrJoin(missing, ", ")));
  if (flags.count("avx2") == 0 || flags.count("fma") == 0) {
    finding.verdict = Verdict::kAdvice;
    finding.fix = "everything runs, on plain loops; a CPU (or a virtual machine's CPU type 'host') with AVX2 is faster";
  } else if (flags.count("avx512_bf16") == 0) {
    finding.verdict = Verdict::kAdvice;
    finding.fix =
        "--compute bf16 is emulated here, so --compute auto means f32; a CPU with AVX512_BF16 computes it directly";
  }
  return finding;
}

Finding Memory() {
  const std::string meminfo = ReadFile("/proc/meminfo");
  const int64_t total = MemoryBytes(meminfo, "MemTotal");
  int64_t available = MemoryBytes(meminfo, "MemAvailable");
  Finding finding{"memory", Verdict::kOk, absl::StrCat(Bytes(available), " available of ", Bytes(total)), ""};
  int64_t limit = 0;
  if (absl::SimpleAtoi(ReadFile("/sys/fs/cgroup/memory.max"), &limit) && limit < total) {
    absl::StrAppend(&finding.value, "; the container's limit is ", Bytes(limit));
    available = std::min(available, limit);
  }
  if (available < 512 * kMiB) {
    finding.verdict = Verdict::kAdvice;
    finding.fix =
        "end other programs, or give the container more (docker run --memory=2g): the demo takes about 500 MiB";
  }
  return finding;
}

Finding HugePages() {
  const std::string setting = ReadFile("/sys/kernel/mm/transparent_hugepage/enabled");
  Finding finding{"huge pages", Verdict::kOk, "", ""};
  const size_t open = setting.find('['), close = setting.find(']');
  const std::string mode =
      open == std::string::npos || close == std::string::npos ? "unknown" : setting.substr(open + 1, close - open - 1);
  const std::string reserved = ValueAfter(ReadFile("/proc/meminfo"), "HugePages_Total");
  finding.value = absl::StrCat("transparent: ", mode, "; reserved: ", reserved.empty() ? "none" : reserved);
  if (mode != "always" && mode != "madvise") {
    finding.verdict = Verdict::kAdvice;
    finding.fix = "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled";
  }
  return finding;
}

Finding SharedMemory() {
  struct statvfs disk = {};
  if (statvfs("/dev/shm", &disk) != 0 || access("/dev/shm", W_OK) != 0) {
    return {"/dev/shm", Verdict::kAdvice, "not there, or not writable",
            "sudo mount -t tmpfs -o size=1g tmpfs /dev/shm (transports over shared memory need it)"};
  }
  const int64_t size = static_cast<int64_t>(disk.f_blocks) * static_cast<int64_t>(disk.f_frsize);
  const int64_t left = static_cast<int64_t>(disk.f_bavail) * static_cast<int64_t>(disk.f_frsize);
  Finding finding{"/dev/shm", Verdict::kOk, absl::StrCat(Bytes(left), " free of ", Bytes(size)), ""};
  if (left < 256 * kMiB) {
    finding.verdict = Verdict::kAdvice;
    finding.fix = "docker run --shm-size=1g, or sudo mount -o remount,size=1g /dev/shm";
  }
  return finding;
}

Finding LockedMemory() {
  rlimit limit = {};
  getrlimit(RLIMIT_MEMLOCK, &limit);
  if (limit.rlim_cur == RLIM_INFINITY) return {"memlock", Verdict::kOk, "unlimited", ""};
  Finding finding{"memlock", Verdict::kOk, Bytes(static_cast<int64_t>(limit.rlim_cur)), ""};
  if (limit.rlim_cur < static_cast<rlim_t>(256 * kMiB)) {
    finding.verdict = Verdict::kAdvice;
    finding.fix = "ulimit -l unlimited, or docker run --ulimit memlock=-1 (RDMA registers memory; gRPC does without)";
  }
  return finding;
}

Finding Descriptors() {
  rlimit limit = {};
  getrlimit(RLIMIT_NOFILE, &limit);
  Finding finding{"descriptors", Verdict::kOk, absl::StrCat(limit.rlim_cur, " (at most ", limit.rlim_max, ")"), ""};
  if (limit.rlim_cur == RLIM_INFINITY) finding.value = "unlimited";
  if (limit.rlim_cur < 4096) {
    finding.verdict = limit.rlim_cur < 128 ? Verdict::kBlocked : Verdict::kAdvice;
    finding.fix = "ulimit -n 65536 (every client, shard and checkpoint file takes one)";
  }
  return finding;
}

Finding Ports() {
  if (!CanListenOnLoopback(0)) {
    return {"ports", Verdict::kBlocked, "cannot listen on 127.0.0.1",
            "sudo ip link set lo up; in a sandbox, allow listening on loopback"};
  }
  const std::vector<std::string> range =
      absl::StrSplit(ReadFile("/proc/sys/net/ipv4/ip_local_port_range"), absl::ByAnyChar(" \t\n"), absl::SkipEmpty());
  int first = 0, last = 0;
  if (range.size() != 2 || !absl::SimpleAtoi(range[0], &first) || !absl::SimpleAtoi(range[1], &last)) {
    return {"ports", Verdict::kOk, "127.0.0.1 can be listened on", ""};
  }
  Finding finding{"ports", Verdict::kOk,
                  absl::StrCat("127.0.0.1 can be listened on; free ones come from ", first, "-", last), ""};
  if (last - first < 1000) {
    finding.verdict = Verdict::kAdvice;
    finding.fix = "sudo sysctl -w net.ipv4.ip_local_port_range='32768 60999'";
  }
  return finding;
}

std::vector<std::string> EntriesOf(const char* directory) {
  std::vector<std::string> names;
  DIR* open = opendir(directory);
  if (open == nullptr) return names;
  while (const dirent* entry = readdir(open)) {
    if (entry->d_name[0] != '.') names.push_back(entry->d_name);
  }
  closedir(open);
  std::sort(names.begin(), names.end());
  return names;
}

// The transports that `ucx_info -d` names, sorted; empty where the tool is missing or fails.
std::vector<std::string> UcxTransports() {
  std::set<std::string> names;
  FILE* pipe = popen("ucx_info -d 2>/dev/null", "re");
  if (pipe == nullptr) return {};
  char line[512];
  while (fgets(line, sizeof(line), pipe) != nullptr) {
    const absl::string_view text(line);
    const size_t at = text.find("Transport: ");
    if (at != absl::string_view::npos) names.emplace(absl::StripAsciiWhitespace(text.substr(at + 11)));
  }
  pclose(pipe);
  return {names.begin(), names.end()};
}

Finding Ucx() {
  const std::vector<std::string> adapters = EntriesOf("/sys/class/infiniband");
  const std::vector<std::string> transports = UcxTransports();
  Finding finding{"ucx", Verdict::kOk, "", ""};
  const std::string rdma = adapters.empty() ? "no RDMA adapter" : absl::StrCat("RDMA ", absl::StrJoin(adapters, ", "));
  if (transports.empty()) {
    finding.verdict = Verdict::kAdvice;
    finding.value = absl::StrCat("ucx_info not found; ", rdma);
    finding.fix = "sudo apt-get install ucx-utils libucx0 (the inproc and grpc transports do without)";
  } else {
    finding.value = absl::StrCat(absl::StrJoin(transports, ", "), "; ", rdma);
  }
  return finding;
}

Finding Cuda() {
  const bool module = access("/proc/driver/nvidia/version", R_OK) == 0;
  void* library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  if (library == nullptr) {
    if (!module) return {"cuda", Verdict::kOk, "no NVIDIA driver; everything runs on the CPU", ""};
    return {"cuda", Verdict::kAdvice, "the NVIDIA kernel module is loaded, but libcuda.so.1 is not found",
            "sudo apt-get install libcuda1, or start the container with --gpus all"};
  }
  using Init = int (*)(unsigned);
  using GetInt = int (*)(int*);
  const auto init = reinterpret_cast<Init>(dlsym(library, "cuInit"));
  const auto get_version = reinterpret_cast<GetInt>(dlsym(library, "cuDriverGetVersion"));
  const auto get_count = reinterpret_cast<GetInt>(dlsym(library, "cuDeviceGetCount"));
  int version = 0, devices = 0;
  if (init == nullptr || get_version == nullptr || get_count == nullptr || init(0) != 0 || get_version(&version) != 0 ||
      get_count(&devices) != 0) {
    return {"cuda", Verdict::kAdvice, "libcuda.so.1 is there, but finds no usable device",
            "nvidia-smi shows whether driver and kernel module are of one version; reboot after a driver update"};
  }
  return {"cuda", Verdict::kOk,
          absl::StrCat(devices, " devices, driver for CUDA ", version / 1000, ".", version % 1000 / 10), ""};
}

Finding Services(const std::string& binary_directory) {
  std::vector<std::string> missing;
  for (const char* name : {"gateway", "router_service", "expert_service"}) {
    if (!FindServiceBinary(binary_directory, name).ok()) missing.push_back(name);
  }
  if (missing.empty()) return {"services", Verdict::kOk, "gateway, router_service and expert_service found", ""};
  return {"services", Verdict::kBlocked, absl::StrCat(absl::StrJoin(missing, ", "), " not found beside this command"),
          "bazel build //cli:conclave builds them; an installation keeps all four executables in one directory"};
}

}  // namespace

std::vector<Finding> ExamineMachine(const std::string& binary_directory) {
  return {Cpu(),         Memory(), HugePages(), SharedMemory(), LockedMemory(),
          Descriptors(), Ports(),  Ucx(),       Cuda(),         Services(binary_directory)};
}

}  // namespace conclave

#include "moe/base/cpus.h"

#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <map>
#include <tuple>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "moe/base/check.h"

namespace conclave {
namespace {

// The first line of a file of the kernel; empty: it is not there.
std::string FirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// The CPUs that a file of the kernel lists; empty where there is none.
std::vector<int> CpusOf(const std::string& path) {
  const absl::StatusOr<std::vector<int>> cpus = ParseCpuList(FirstLine(path));
  return cpus.ok() ? *cpus : std::vector<int>();
}

// What a control group may use of the machine, in cores; infinite: all of it. "200000 100000" are two cores.
double CoresOfQuota(const std::string& cgroup) {
  const std::vector<std::string> words = absl::StrSplit(FirstLine(cgroup + "/cpu.max"), ' ');
  double quota = 0, period = 0;
  if (words.size() != 2 || !absl::SimpleAtod(words[0], &quota) || !absl::SimpleAtod(words[1], &period)) return INFINITY;
  return quota > 0 && period > 0 ? quota / period : INFINITY;
}

absl::Status BadList(absl::string_view text, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("'", text, "' is no list of CPUs such as 0-3,8: ", why));
}

}  // namespace

std::vector<int> UsableCpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
    }
  }
  // A kernel with more CPUs than a set holds refuses the call.
  if (cpus.empty()) cpus.push_back(0);
  return cpus;
}

int UsableCores(const std::string& cgroup) {
  const double cpus = static_cast<double>(UsableCpus().size());
  return std::max(1, static_cast<int>(std::min(cpus, std::ceil(CoresOfQuota(cgroup)))));
}

absl::StatusOr<std::vector<int>> ParseCpuList(absl::string_view text) {
  std::vector<int> cpus;
  for (const absl::string_view piece : absl::StrSplit(text, ',')) {
    const std::vector<absl::string_view> ends = absl::StrSplit(piece, '-');
    int first = 0, last = 0;
    if (ends.size() > 2 || !absl::SimpleAtoi(ends.front(), &first) || !absl::SimpleAtoi(ends.back(), &last)) {
      return BadList(text, absl::StrCat("'", piece, "' is neither a number nor a range"));
    }
    if (first < 0 || last >= CPU_SETSIZE || first > last) {
      return BadList(text, absl::StrCat("'", piece, "' does not ascend within 0-", CPU_SETSIZE - 1));
    }
    for (int cpu = first; cpu <= last; ++cpu) {
      if (std::find(cpus.begin(), cpus.end(), cpu) != cpus.end()) {
        return BadList(text, absl::StrCat("CPU ", cpu, " stands in it twice"));
      }
      cpus.push_back(cpu);
    }
  }
  return cpus;
}

std::string FormatCpuList(absl::Span<const int> cpus) {
  std::vector<int> sorted(cpus.begin(), cpus.end());
  std::sort(sorted.begin(), sorted.end());
  std::vector<std::string> pieces;
  for (size_t begin = 0, end = 0; begin < sorted.size(); begin = end) {
    for (end = begin + 1; end < sorted.size() && sorted[end] == sorted[end - 1] + 1; ++end) {
    }
    pieces.push_back(absl::StrCat(sorted[begin]));
    if (end > begin + 1) absl::StrAppend(&pieces.back(), "-", sorted[end - 1]);
  }
  return absl::StrJoin(pieces, ",");
}

absl::Status CheckUsable(absl::Span<const int> cpus) {
  const std::vector<int> usable = UsableCpus();
  for (const int cpu : cpus) {
    if (std::binary_search(usable.begin(), usable.end(), cpu)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("CPU ", cpu, " is not there, or not for this process; it may use ", FormatCpuList(usable)));
  }
  return absl::OkStatus();
}

std::vector<int> SortByLocality(std::vector<int> cpus, const std::string& sysfs) {
  std::map<int, int> node_of;
  for (const int node : CpusOf(sysfs + "/node/online")) {  // a list of nodes, written as lists of CPUs are
    for (const int cpu : CpusOf(absl::StrCat(sysfs, "/node/node", node, "/cpulist"))) node_of[cpu] = node;
  }
  const auto place = [&](int cpu) {
    const std::vector<int> siblings =
        CpusOf(absl::StrCat(sysfs, "/cpu/cpu", cpu, "/topology/thread_siblings_list"));
    const auto node = node_of.find(cpu);
    return std::tuple(node == node_of.end() ? 0 : node->second, siblings.empty() ? cpu : siblings.front(), cpu);
  };
  std::map<int, std::tuple<int, int, int>> places;
  for (const int cpu : cpus) places[cpu] = place(cpu);
  std::sort(cpus.begin(), cpus.end(), [&](int a, int b) { return places[a] < places[b]; });
  return cpus;
}

absl::Status KeepThisThreadOn(absl::Span<const int> cpus) {
  CONCLAVE_CHECK(!cpus.empty());
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int cpu : cpus) CPU_SET(cpu, &set);
  if (sched_setaffinity(0, sizeof(set), &set) == 0) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("cannot keep a thread on CPUs ", FormatCpuList(cpus), ": ", strerror(errno)));
}

void LetOthersGoFirst() {
  const sched_param none = {};
  sched_setscheduler(0, SCHED_BATCH, &none);
}

}  // namespace conclave

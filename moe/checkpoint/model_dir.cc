#include "moe/checkpoint/model_dir.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "moe/base/limits.h"
#include "moe/base/status_macros.h"
#include "moe/checkpoint/model_file.h"
#include "moe/checkpoint/weight_index.h"

namespace conclave {
namespace {

namespace fs = std::filesystem;

constexpr char kIndexFile[] = "model.safetensors.index.json";

struct HubName {
  std::string organisation, name, revision;
  bool revision_given = false;
};

bool IsHubWord(absl::string_view word) {
  if (word.empty() || word.size() > 96 || word[0] == '.' || word[0] == '-') return false;
  for (const char c : word) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && c != '-' && c != '_' && c != '.') return false;
  }
  return !absl::StrContains(word, "..") && !absl::StrContains(word, "--");
}

// A branch or tag may have slashes ("refs/pr/1"), but must stay below the refs folder.
bool IsRevision(absl::string_view revision) {
  if (revision.size() > 255) return false;
  for (const absl::string_view part : absl::StrSplit(revision, '/')) {
    if (part.empty() || part == "." || part == ".." || absl::StrContains(part, absl::string_view("\0", 1)))
      return false;
  }
  return true;
}

std::optional<HubName> ParseHubName(absl::string_view model) {
  const std::pair<absl::string_view, absl::string_view> at = absl::StrSplit(model, absl::MaxSplits('@', 1));
  const std::vector<absl::string_view> words = absl::StrSplit(at.first, '/');
  if (words.size() != 2 || !IsHubWord(words[0]) || !IsHubWord(words[1])) return std::nullopt;
  const bool given = absl::StrContains(model, '@');
  if (given && !IsRevision(at.second)) return std::nullopt;
  return HubName{std::string(words[0]), std::string(words[1]), given ? std::string(at.second) : "main", given};
}

std::string Gigabytes(double bytes) { return absl::StrFormat("%.1f GB", bytes / 1e9); }

// Free disk where `path` is or will be.
std::string FreeDisk(fs::path path) {
  std::error_code error;
  while (!path.empty() && !fs::exists(path, error) && path.has_parent_path() && path != path.parent_path()) {
    path = path.parent_path();
  }
  const fs::space_info space = fs::space(path, error);
  return error ? "unknown" : Gigabytes(static_cast<double>(space.available));
}

// What the checkpoints published at Hugging Face weigh, in bytes; 0: not known.
double PublishedBytes(const HubName& name) {
  struct Row {
    const char* organisation;
    const char* prefix;
    double bytes;
  };
  // More specific prefixes come first.
  constexpr Row kRows[] = {
      {"deepseek-ai", "DeepSeek-V3.2", 0},
      {"deepseek-ai", "DeepSeek-R1-Distill", 0},
      {"deepseek-ai", "DeepSeek-V3", 688.6e9},
      {"deepseek-ai", "DeepSeek-R1", 688.6e9},
      {"deepseek-ai", "DeepSeek-V2-Lite", 31.4e9},
      {"deepseek-ai", "DeepSeek-V2", 471.5e9},
      {"deepseek-ai", "DeepSeek-Coder-V2-Lite", 31.4e9},
      {"deepseek-ai", "DeepSeek-Coder-V2", 471.5e9},
      {"moonshotai", "Kimi-K2-Thinking", 0},
      {"moonshotai", "Kimi-K2", 1029e9},
      {"moonshotai", "Moonlight-16B-A3B", 31.9e9},
  };
  for (const Row& row : kRows) {
    if (name.organisation == row.organisation && absl::StartsWith(name.name, row.prefix)) return row.bytes;
  }
  return 0;
}

absl::Status NotInCache(const HubName& name, const std::string& cache, const std::string& why, double bytes) {
  if (bytes == 0) bytes = PublishedBytes(name);
  const std::string target = absl::StrCat(cache, "/models--", name.organisation, "--", name.name);
  return absl::NotFoundError(absl::StrCat(
      name.organisation, "/", name.name, name.revision_given ? absl::StrCat("@", name.revision) : "", " ", why,
      "; download it with `hf download ", name.organisation, "/", name.name, " --revision ", name.revision, "` to ",
      target, " (size ", bytes > 0 ? absl::StrCat("about ", Gigabytes(bytes)) : "not known here", ", free disk there ",
      FreeDisk(target), ")"));
}

std::vector<std::string> FolderNames(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    names.push_back(it->path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

// The commit that `revision` stands for, or empty.
std::string CommitOf(const fs::path& model_folder, const std::string& revision) {
  constexpr int64_t kRefBytesMax = 1024;
  const absl::StatusOr<std::string> ref = ReadTextFile((model_folder / "refs" / revision).string(), kRefBytesMax);
  const std::string commit(
      absl::StripAsciiWhitespace(ref.ok() ? absl::string_view(*ref) : absl::string_view(revision)));
  std::error_code error;
  const bool plain = IsRevision(commit) && !absl::StrContains(commit, '/');
  return plain && fs::is_directory(model_folder / "snapshots" / commit, error) ? commit : std::string();
}

// OK when config.json and all weight files of the snapshot are there.
absl::Status CheckSnapshot(const HubName& name, const std::string& cache, const std::string& snapshot) {
  std::error_code error;
  const auto whole = [&](const std::string& file) { return fs::exists(fs::path(snapshot) / file, error); };
  if (!whole("config.json")) return NotInCache(name, cache, "is not complete in the cache (config.json is missing)", 0);
  if (whole("model.safetensors") || !ModelFileExists(snapshot, kIndexFile)) return absl::OkStatus();
  absl::StatusOr<std::string> text = ReadModelFile(snapshot, kIndexFile, limits::kSafetensorsHeaderBytesMax);
  if (!text.ok()) return NotInCache(name, cache, "is not complete in the cache (the index cannot be read)", 0);
  absl::StatusOr<WeightIndex> index = ParseWeightIndex(*text);
  if (!index.ok()) return absl::OkStatus();  // Checkpoint::Open says what is wrong with it
  int missing = 0;
  for (const std::string& file : index->files) missing += !whole(file);
  if (missing == 0) return absl::OkStatus();
  return NotInCache(name, cache,
                    absl::StrCat("is not complete in the cache (", missing, " of ", index->files.size(),
                                 " weight files are missing)"),
                    static_cast<double>(index->total_bytes.value_or(0)));
}

}  // namespace

std::string HubCacheFolder(const HubEnvironment& environment) {
  if (!environment.hub_cache.empty()) return environment.hub_cache;
  if (!environment.hf_home.empty()) return absl::StrCat(environment.hf_home, "/hub");
  if (!environment.home.empty()) return absl::StrCat(environment.home, "/.cache/huggingface/hub");
  return "";
}

absl::StatusOr<std::string> ResolveModelDir(const std::string& model, const HubEnvironment& environment) {
  if (model.empty()) return absl::InvalidArgumentError("model: must be a directory or org/name[@revision]");
  std::error_code error;
  if (fs::exists(model, error)) return model;
  const std::string printable = absl::CHexEscape(absl::string_view(model).substr(0, 300));
  const std::optional<HubName> name = ParseHubName(model);
  if (!name.has_value()) {
    return absl::NotFoundError(absl::StrCat(
        printable, ": no such model directory (and not of the form org/name[@revision] of the Hugging Face cache)"));
  }
  const std::string cache = HubCacheFolder(environment);
  if (cache.empty()) {
    return absl::NotFoundError(absl::StrCat(printable,
                                            ": no such model directory, and neither HF_HOME nor HOME says "
                                            "where the Hugging Face cache is"));
  }
  const fs::path folder = fs::path(cache) / absl::StrCat("models--", name->organisation, "--", name->name);
  const std::string commit = CommitOf(folder, name->revision);
  if (commit.empty()) {
    const std::vector<std::string> snapshots = FolderNames(folder / "snapshots");
    std::string why = "is neither a directory nor in the local Hugging Face cache";
    if (!snapshots.empty()) {
      absl::StrAppend(&why, " at revision ", name->revision, " (the cache has @", absl::StrJoin(snapshots, ", @"), ")");
    }
    return NotInCache(*name, cache, why, 0);
  }
  const std::string snapshot = (folder / "snapshots" / commit).string();
  RETURN_IF_ERROR(CheckSnapshot(*name, cache, snapshot));
  return snapshot;
}

}  // namespace conclave

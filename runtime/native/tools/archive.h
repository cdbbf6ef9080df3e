// NAME.star.zip, a bundle in one file, by the rules of runtime/archive.py: nothing in it is believed before it is checked.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "manifest.h"
#include "readers/zip.h"

namespace star::tools {

/// Whether a path is one visible file name: nothing that could leave a folder on any system.
bool is_plain(std::string_view name);

/// A packed bundle whose directory was checked against its list. Throws Failure.
class Archive {
   public:
    explicit Archive(const std::string &path);

    /// Bytes of a listed file, compared with its size and hash.
    std::string read(const std::string &name) const;

    /// Throws unless the archive holds these files of a manifest as the manifest has them, and nothing unknown beside them.
    void check(const std::map<std::string, FileEntry> &files, const std::string &bundle_id) const;

   private:
    void check_entries() const;
    void read_list();
    void check_list() const;
    std::string member(const ZipEntry &entry) const;

    const std::string path_;
    mutable std::optional<ZipFile> zip_;
    std::string bundle_id_;
    std::map<std::string, FileEntry> files_;  // by name, all but the list itself
};

}  // namespace star::tools

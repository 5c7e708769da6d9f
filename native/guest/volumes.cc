#include "volumes.h"

#include <cerrno>
#include <cstdio>

#include "ext.h"
#include "fat.h"
#include "ntfs.h"
#include "partitions.h"

namespace {

const char kAppliance[] = "; it needs the appliance";

// What is inside is looked at once, so that 'readable' is more than a magic number.
void tryToOpen(Volume& volume) {
  try {
    const auto filesystem = openVolume(volume);
    if (filesystem->attributes(filesystem->root()).kind != guest::Kind::directory) throw Trouble(EIO, "its root is no directory");
    const std::string label = filesystem->label();
    if (!label.empty()) volume.probed.label = label;
    const std::string unclean = filesystem->unclean();
    if (unclean.empty()) {
      volume.state = "readable";
      return;
    }
    volume.probed.reason = unclean;
  } catch (const Trouble& trouble) {
    if (trouble.error == ENOMEM) throw;
    volume.probed.reason = std::string("the quick reader cannot open it: ") + trouble.what();
  }
  volume.state = "unsupported";
  volume.needsAppliance = true;
}

void judge(Volume& volume) {
  switch (volume.probed.content) {
    case Content::ext:
    case Content::ntfs:
    case Content::fat:
    case Content::exfat:
      tryToOpen(volume);
      break;
    case Content::appliance:
      volume.state = "unsupported";
      volume.needsAppliance = true;
      break;
    case Content::guestOnly:
      volume.state = "unsupported";
      volume.probed.reason += " is read by the guest's own system alone: boot the point and copy from there";
      break;
    case Content::unknown:
      volume.state = "nothing";
      volume.probed.reason = "nothing that is known here";
      break;
    case Content::empty:
      volume.state = "nothing";
      volume.probed.reason = "empty";
      break;
    case Content::nothing:
      volume.state = "nothing";
      break;
  }
  if (volume.needsAppliance) volume.probed.reason += kAppliance;
}

void addVolume(std::vector<Volume>& volumes, const std::string& name, const Disk& disk, const Slice& slice, bool isCut) {
  Volume volume{name, disk.name, slice, probe(slice), "", false};
  judge(volume);
  if (isCut && volume.state != "nothing") volume.probed.reason += (volume.probed.reason.empty() ? "" : "; ") + std::string("its disk is shorter than its partition");
  volumes.push_back(std::move(volume));
}

// Windows' dynamic disks: the partition is a part of a volume that only Windows puts together.
bool isDynamic(const Partition& partition) { return partition.type == kDynamic; }

void addPartitions(std::vector<Volume>& volumes, Blocks& blocks, uint32_t index) {
  const Disk& disk = blocks.disks()[index];
  const Slice whole(blocks, index, 0, disk.size);
  const Partitions table = readPartitions(whole);
  if (table.table == Table::none || isMirror(whole)) {
    addVolume(volumes, disk.name + "-whole", disk, whole, false);
    return;
  }
  for (const Partition& partition : table.all) {
    const std::string name = disk.name + "-p" + std::to_string(partition.number);
    const Slice slice(blocks, index, partition.offset, partition.size);
    if (isDynamic(partition))
      volumes.push_back({name, disk.name, slice, {Content::guestOnly, "LDM", "", "", "a part of a dynamic disk of Windows: boot the point and copy from there"}, "unsupported", false});
    else
      addVolume(volumes, name, disk, slice, partition.isCut);
  }
}

// Labels are the guest's bytes: what is not ASCII and not UTF-8 would not be JSON either.
std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const size_t length = byte < 0x80 ? 1 : byte >= 0xc2 && byte < 0xe0 ? 2 : byte >= 0xe0 && byte < 0xf0 ? 3 : byte >= 0xf0 && byte < 0xf5 ? 4 : 0;
    bool isWhole = length > 0 && i + length <= text.size();
    for (size_t k = 1; isWhole && k < length; k++) isWhole = (static_cast<unsigned char>(text[i + k]) & 0xc0) == 0x80;
    if (!isWhole) {
      result += "\\ufffd";
      i++;
    } else if (byte < 0x20 || byte == '"' || byte == '\\' || byte == 0x7f) {
      char escaped[8];
      snprintf(escaped, sizeof escaped, "\\u%04x", byte);
      result += escaped;
      i++;
    } else {
      result += text.substr(i, length);
      i += length;
    }
  }
  return result + "\"";
}

}  // namespace

std::vector<Volume> findVolumes(Blocks& blocks) {
  std::vector<Volume> volumes;
  for (uint32_t index = 0; index < blocks.disks().size(); index++) addPartitions(volumes, blocks, index);
  return volumes;
}

std::unique_ptr<Filesystem> openVolume(const Volume& volume) {
  switch (volume.probed.content) {
    case Content::ext:
      return openExt(volume.slice);
    case Content::ntfs:
      return openNtfs(volume.slice);
    case Content::fat:
      return openFat(volume.slice);
    case Content::exfat:
      return openExfat(volume.slice);
    default:
      throw Trouble(EOPNOTSUPP, volume.probed.reason);
  }
}

std::string volumesAsJson(const std::vector<Volume>& volumes) {
  std::string json = "[";
  for (const Volume& volume : volumes) {
    if (json.size() > 1) json += ",";
    json += "{\"name\":" + quoted(volume.name) + ",\"disk\":" + quoted(volume.disk);
    const Probed& probed = volume.probed;
    if (!probed.type.empty()) json += ",\"type\":" + quoted(probed.type);
    if (!probed.label.empty()) json += ",\"label\":" + quoted(probed.label);
    if (!probed.uuid.empty()) json += ",\"uuid\":" + quoted(probed.uuid);
    json += ",\"sizeBytes\":" + std::to_string(volume.slice.size()) + ",\"state\":" + quoted(volume.state);
    if (!probed.reason.empty()) json += ",\"reason\":" + quoted(probed.reason);
    if (volume.needsAppliance) json += ",\"needs\":\"appliance\"";
    json += "}";
  }
  return json + "]";
}
